"""Bytes of a picture -> red, green and blue, or one line that says why not. Pillow is imported where it is needed.

Read right: EXIF's rotation is applied, CMYK and palettes become RGB, greys of 9 to 16 bits keep their upper 8, what is
transparent stands over white, of an animation the first frame counts. Refused by the header, before any pixel is
decoded: more pixels than `MOST_PIXELS`, a side more than `MOST_SIDES` times the other.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import InputError
from infra.settings import settings
from tasks.pictures import HeldPicture, Picture, payload_of, picture_of

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 64_000_000  # 192 MB as RGB
MOST_SIDES = 200  # what resizes the shorter side makes of a thin picture takes gigabytes
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # none that starts a program (EPS) or draws (PDF, WMF)
CHECKED = "checked-1.txt"  # sha256 of pictures that were decoded whole; another number for another reader
THREADS = 4
_ORIENTATION = 0x0112  # the tag of EXIF
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_opening = threading.Lock()  # filters of warnings are one for the whole process
# Of damaged tags, beside the line that we say ourselves; not within a block, since pictures are decoded by threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_picture(picture: Picture) -> Image.Image:
    """The picture, upright, in mode RGB.

    Raises:
        InputError: its file is gone or has changed, or is no picture that can be read; names file and remedy.
    """
    return decode(payload_of(picture), picture.path)


def decode(payload: bytes, what: str) -> Image.Image:
    """The picture that bytes hold, upright, in mode RGB; `what` (a file's name) heads errors. As `read_picture`."""
    return _upright(_opened(payload, what), what)


def picture_of_image(image: Image.Image, what: str = "the picture") -> HeldPicture:
    """A picture that Pillow holds, as if it had been read from its file; kept in memory without loss.

    Raises:
        InputError: see `read_picture`.
    """
    _check_sides(*image.size, what)
    held = io.BytesIO()
    _upright(image, what).save(held, "PNG", compress_level=1)
    return picture_of(held.getvalue(), what)


def plain_picture(shade: int = 128, side: int = 64) -> HeldPicture:
    """A square of one grey (0 black, 255 white), side x side pixels: for examples, and to try what sees."""
    from PIL import Image

    return picture_of_image(Image.new("RGB", (side, side), (shade, shade, shade)))


def _upright(picture: Image.Image, what: str) -> Image.Image:
    from PIL import ImageOps

    try:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return _in_rgb(upright, what, getattr(picture, "tag_v2", {}))
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and others, by format
        raise InputError(f"{what}: a damaged or truncated picture ({_reason(error)}). Remedy: save it again") from error


def size_of(payload: bytes, what: str) -> tuple[int, int]:
    """Width and height in pixels as stored, by the header alone. Raises InputError for no picture, or a huge one."""
    return _opened(payload, what).size


def upright_size(payload: bytes, what: str) -> tuple[int, int]:
    """As `size_of`, of the picture as it is read: EXIF may turn it by a quarter."""
    picture = _opened(payload, what)
    with contextlib.suppress(Exception):  # what is wrong with its pixels is said when they are read
        turned = picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        if turned and picture.format != "TIFF":  # of which Pillow turns the size itself
            return picture.size[1], picture.size[0]
    return picture.size


def not_taken(path: str, error: Exception, what: str = "the backbone's processor") -> InputError:
    """What is said of a picture that can be read, and that a processor or an encoder (`what`) does not take."""
    return InputError(
        f"{path}: {what} does not take this picture ({_reason(error)}). Remedy: another picture, or take its rows out"
    )


def faults(pictures: Iterable[Picture], progress: Callable[[], None] | None = None) -> dict[str, str]:
    """sha256 -> what is wrong with it, of those pictures that cannot be read. Each is decoded once a machine.

    Args:
        progress: called for each distinct picture.
    """
    wanted = {picture.sha256: picture for picture in pictures}
    known = _known()

    def look(picture: Picture) -> str:
        try:
            if picture.sha256 not in known:
                read_picture(picture)
        except InputError as error:
            return str(error)
        return ""

    found: dict[str, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes outside of Python's lock
        for digest, fault in zip(wanted, pool.map(look, wanted.values()), strict=True):
            found[digest] = fault
            if progress is not None:
                progress()
    _remember([digest for digest, fault in found.items() if not fault and digest not in known])
    return {digest: fault for digest, fault in found.items() if fault}


def check_pictures(pictures: Iterable[Picture]) -> None:
    """Raise InputError for the first picture that cannot be read, with the number of the others."""
    if wrong := list(faults(pictures).values()):
        more = f" (and {len(wrong) - 1:,} more; `dept tasks new` lists them)" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}{more}")


def _opened(payload: bytes, what: str) -> Image.Image:
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  the two register

    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, of damaged tags: we say it, in one line
            picture = Image.open(io.BytesIO(payload), formats=FORMATS)
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InputError(f"{what}: not a picture that can be read ({known}). Remedy: save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{what}: more than {MOST_PIXELS:,} pixels. Remedy: make it smaller") from error
    except Exception as error:  # of headers, too, Pillow raises what its formats raise
        raise InputError(f"{what}: a damaged picture ({_reason(error)}). Remedy: save it again") from error
    _check_sides(*picture.size, what)
    return picture


def _check_sides(width: int, height: int, what: str) -> None:
    if not width * height:
        raise InputError(f"{what}: a picture without a pixel. Remedy: another picture")
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{what}: {width:,} x {height:,} pixels, but at most {MOST_PIXELS:,} are read. Remedy: make it smaller"
        )
    if max(width, height) > MOST_SIDES * min(width, height):
        raise InputError(
            f"{what}: {width:,} x {height:,} pixels, but a side may be at most {MOST_SIDES} times the other. Remedy: "
            "cut it"
        )


def _in_rgb(picture: Image.Image, what: str, tags: Mapping[int, Any]) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return _of_16_bits(picture, tags)
    if picture.mode in ("I", "F"):
        raise InputError(
            f"{what}: its pixels are 32-bit numbers, whose black and white are not known. Remedy: save it with 8 bits"
        )
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        white.alpha_composite(over)
        return white.convert("RGB")
    return picture.convert("RGB")


def _of_16_bits(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of 9 to 16 bits in RGB. tags: of TIFF, which may hold fewer than 16 bits, and 0 for white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(picture).astype(np.uint16)
    bits = int((tags.get(_BITS) or (16,))[0])
    grey = (values >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    if isinstance(clear := picture.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _file() -> Path:
    return settings().cache / "pictures" / CHECKED


def _known() -> set[str]:
    try:
        return set(_file().read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return set()


def _remember(digests: list[str]) -> None:
    if not digests:
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written: they are decoded again next time
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="ascii") as file:
            file.write("".join(f"{digest}\n" for digest in digests))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
