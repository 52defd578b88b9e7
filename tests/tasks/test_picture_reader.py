"""Each kind of picture is read right, or ends in one line that names the file and the remedy."""

import hashlib
import threading
import tracemalloc

import pytest
from PIL import Image, ImageFile

from infra.errors import InputError
from infra.settings import settings
from tasks import picture_reader
from tasks.picture_reader import check_pictures, decode, faults, read_picture, size_of, upright_size
from tasks.pictures import Finder, Picture, payload_of, picture_at, picture_in
from tests.tasks.picture_cases import (
    BLUE,
    RED,
    animated,
    bomb,
    half_a_tiff,
    png,
    rotated,
    saved,
    see_through,
    sixteen_bits,
    tiff,
)

WHITE = (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("payload", "left", "right"),
    [
        (saved(Image.new("RGB", (8, 8), RED)), RED, RED),
        (saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), RED, RED),
        (rotated(), RED, BLUE),
        (animated("GIF"), RED, RED),
        (animated("PNG"), RED, RED),
        (animated("WEBP"), RED, RED),
        (see_through("RGBA"), RED, WHITE),
        (see_through("P"), RED, WHITE),
        (see_through("LA"), (76, 76, 76), WHITE),
        (sixteen_bits(), (128, 128, 128), WHITE),
        (sixteen_bits("TIFF"), (128, 128, 128), WHITE),
        (tiff([0x8000, 0xFFFF], 16), (128, 128, 128), WHITE),
        (tiff([0x4000, 0], 16, 0), (191, 191, 191), WHITE),
        (tiff([0x800, 0xFFF], 12), (128, 128, 128), WHITE),
        (saved(Image.new("L", (8, 8), 9)), (9, 9, 9), (9, 9, 9)),
        (saved(Image.new("1", (8, 8), 1)), WHITE, WHITE),
        (saved(Image.new("RGB", (1, 1), BLUE)), BLUE, BLUE),
        (saved(Image.new("RGB", (8, 8), BLUE), "BMP"), BLUE, BLUE),
    ],
    ids=[
        *("plain", "cmyk", "turned by exif", "gif", "animated png", "webp", "transparent", "palette", "grey alpha"),
        *(
            "16 bits",
            "16 bits tiff",
            "16 bits by hand",
            "0 is white",
            "12 bits",
            "grey",
            "black and white",
            "1x1",
            "bmp",
        ),
    ],
)
def test_read_right(payload, left, right):
    image = decode(payload, "x")
    assert image.mode == "RGB"
    seen = [image.getpixel((place, image.height // 2)) for place in (0, image.width - 1)]
    for pixel, wanted in zip(seen, (left, right), strict=True):
        assert pixel == pytest.approx(wanted, abs=3)  # JPEG loses a little


def test_a_turned_picture_is_as_wide_as_it_is_seen():
    assert decode(rotated(), "x").size == (32, 16)
    assert size_of(rotated(), "x") == (16, 32)  # by the header alone


@pytest.mark.parametrize(
    "payload", [rotated("PNG"), rotated(), rotated("TIFF"), rotated("WEBP"), animated("GIF"), png()]
)
def test_the_upright_size_is_told_by_the_header(payload):
    assert upright_size(payload, "x") == decode(payload, "x").size


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (saved(Image.effect_noise((64, 64), 99))[:-900], "damaged or truncated.*Remedy: save it again"),
        (saved(Image.effect_noise((64, 64), 99), "JPEG")[:700], "damaged or truncated.*Remedy: save it again"),
        (half_a_tiff(), "not a picture that can be read.*Remedy"),
        (b"\x89PNG\r\n\x1a\n", r"Remedy: save it"),
        (b"caption,label\nnot a picture\n", r"not a picture that can be read \(JPEG, PNG.*Remedy"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that can be read"),
        (saved(Image.new("F", (8, 8), 0.5), "TIFF"), "32-bit numbers.*Remedy: save it with 8 bits"),
        (bomb(), r"more than 64,000,000 pixels\. Remedy: make it smaller"),
        (bomb(9000, 9000), r"9,000 x 9,000 pixels, but at most 64,000,000 are read\. Remedy: make it smaller"),
        (bomb(12_000, 12_000), "12,000 x 12,000 pixels"),
        (saved(Image.new("L", (1, 201))), "1 x 201 pixels, but a side may be at most 200 times the other. Remedy: cut"),
    ],
    ids=[
        "truncated png",
        "truncated jpeg",
        "truncated tiff",
        "no more than a head",
        "text",
        "eps",
        "float",
        "bomb",
        "huge",
        "warned of",
        "thin",
    ],
)
def test_refused_in_one_line(payload, said, recwarn):
    with pytest.raises(InputError, match=f"^folder/x.png: .*{said}") as caught:
        decode(payload, "folder/x.png")
    assert "\n" not in str(caught.value)
    assert not recwarn.list, "Pillow's own warning would be a second line"


def test_a_bomb_is_refused_before_any_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    tracemalloc.start()
    for payload in (bomb(), bomb(9000, 9000)):
        with pytest.raises(InputError, match="pixels"):
            decode(payload, "x")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# --- by reference


def test_a_row_holds_no_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(1))
    a, b = picture_at(tmp_path / "a.png"), picture_at(tmp_path / "b.png")
    assert a == b
    assert a.sha256 == hashlib.sha256(png(1)).hexdigest()
    assert a.path != b.path
    assert read_picture(a).getpixel((0, 0)) == (1, 0, 7)
    inside = tmp_path / "pack"
    inside.write_bytes(b"before" + png(1) + b"after")
    assert payload_of(Picture(a.sha256, str(inside), 6, len(png(1)))) == png(1)


def test_a_picture_that_is_gone_or_another(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    picture = picture_at(path)
    path.write_bytes(png(2))
    with pytest.raises(InputError, match=r"a\.png: the picture has changed.*Remedy"):
        read_picture(picture)
    assert picture_at(path) != picture, "a changed file is looked at again"
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(No such file.*Remedy"):
        read_picture(picture)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.png", r"none\.png: no such file; check the name and source\.pictures"),
        ("", "no picture is named"),
        (None, "no picture is named"),
        (3, "no picture is named"),
        ("inner", "no file"),
        ("empty.png", "the file is empty"),
        ("pipe", "no file"),
        ("../secret.png", "leads out of"),
        ("inner/../../secret.png", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("a\0b", "leads out of"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_cells_that_name_no_picture(tmp_path, name, said):
    import os

    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret.png").write_bytes(png())
    with pytest.raises(InputError, match=said) as caught:
        picture_in(name, folder, "rows.csv, line 7")
    assert str(caught.value).startswith("rows.csv, line 7: ")


def test_a_hub_names_no_files_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"row 3: picture 'own\.png' is a name, and rows of the hub must hold"):
        Finder(None)("own.png", "row 3")


def test_cells_that_do(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(1))
    wanted = picture_at(tmp_path / "in" / "a.png")
    for cell in ("in/a.png", " in/a.png ", str(tmp_path / "in" / "a.png"), {"bytes": None, "path": "in/a.png"}):
        assert picture_in(cell, tmp_path, "x") == wanted
    for cell in (png(1), {"bytes": png(1), "path": "elsewhere.png"}):
        kept = picture_in(cell, tmp_path, "x")
        assert kept == wanted
        assert kept.path.startswith(str(settings().cache))
    find = Finder(tmp_path)
    assert find("in/a.png", "x") is find("in/a.png", "y")
    assert find(png(1), "x") is find({"bytes": png(1)}, "y")


def test_pictures_are_decoded_once_a_machine(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number) if number else png()[:50])
    pictures = [picture_at(tmp_path / f"{number}.png") for number in (*range(6), 1, 1)]
    asked, lock = [], threading.Lock()

    def read(picture):
        with lock:
            asked.append(picture.sha256)
        return read_picture(picture)

    monkeypatch.setattr(picture_reader, "read_picture", read)
    steps = []
    found = faults(pictures, lambda: steps.append(1))
    assert list(found) == [pictures[0].sha256]
    assert len(steps) == len(asked) == 6
    assert faults(pictures) == found
    assert asked[6:] == [pictures[0].sha256], "what was good is remembered, what was not is tried again"
    with pytest.raises(InputError, match=r"0\.png: .*Remedy") as caught:
        check_pictures(pictures)
    assert "more" not in str(caught.value)
