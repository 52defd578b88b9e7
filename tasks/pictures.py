"""Pictures by reference: a row holds which picture it is (sha256 of its bytes) and where that lies, never pixels."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.files import write_bytes
from infra.settings import settings
from tasks.plain import shown

MOST_BYTES = 256 << 20  # of a picture's file


class PictureError(InputError):
    """A picture that a row needs is gone, or is another than when the row was read."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture. Those in files are equal whose bytes are, wherever they lie; so are those that lie in none.

    sha256: of its bytes (hex).
    path: file that holds them; start, size: the bytes of it that are the picture; size -1: the whole file.
    """

    sha256: str
    path: str = field(compare=False)
    start: int = field(default=0, compare=False)
    size: int = field(default=-1, compare=False)


@dataclass(frozen=True, slots=True)
class HeldPicture(Picture):
    """A picture that lies in no file: `path` is what errors call it, `payload` its bytes."""

    payload: bytes = field(default=b"", compare=False, repr=False)


class Finder:
    """`picture_in` for the cells of one table: each name is looked up once, and its rows share one object."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._known = folder, dict[str, Picture]()

    def __call__(self, cell: Any, where: str) -> Picture:
        """The picture that a cell means. Raises InputError as `picture_in` does."""
        if not isinstance(cell, str):
            found = picture_in(cell, self._folder, where)
            return self._known.setdefault(found.sha256, found)
        if cell not in self._known:
            self._known[cell] = picture_in(cell, self._folder, where)
        return self._known[cell]


def picture_in(cell: Any, folder: Path | None, where: str) -> Picture:
    """The picture that a cell of a table means.

    Args:
        folder: None where the table may name no files of this machine.
        cell: a file's name below `folder`, or the picture's bytes, as the library `datasets` has them: bytes and path.
            Bytes are kept below DEPT_CACHE, under their sha256.
        where: file and line, for errors.

    Raises:
        InputError: no picture there, a name that leads out of the folder, a file that cannot be read.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, (bytes, bytearray)) and cell:
        return _kept(bytes(cell), where)
    name = cell.strip() if isinstance(cell, str) else ""
    if not name:
        raise InputError(f"{where}: no picture is named; write a file's name there or remove the row")
    if folder is None:
        raise InputError(
            f"{where}: picture {shown(name)} is a name, and rows of the hub must hold their pictures. Remedy: a "
            "repository whose picture column holds bytes, or local copies in $DEPT_DATA"
        )
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(
            f"{where}: picture {shown(name)} leads out of {folder}. Remedy: names below that folder, or another "
            "source.pictures"
        )
    return picture_at(folder / path, where)


def picture_at(path: str | Path, where: str = "") -> Picture:
    """The picture that a file holds. Raises InputError for no file, a special one, or one that cannot be read."""
    path = Path(path)
    head = f"{where}: " if where else ""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{head}{path}: no file; give the name of a picture's file")
        if not 0 < found.st_size <= MOST_BYTES:
            much = f"larger than {MOST_BYTES >> 20} MiB" if found.st_size else "empty"
            raise InputError(f"{head}{path}: the file is {much}. Remedy: another picture, or take the row out")
        digest = _digest(str(path), found.st_mtime_ns, found.st_size, found.st_ino)
    except FileNotFoundError as error:
        raise InputError(f"{head}{path}: no such file; check the name and source.pictures") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, InputError):
            raise
        raise InputError(f"{head}{path}: cannot be read ({reason}); mend its name or permissions") from error
    return Picture(digest, str(path))


def picture_of(payload: bytes, what: str = "the picture") -> HeldPicture:
    """The picture that these bytes are, kept in memory; `what` heads errors. Raises InputError for none, or too many.

    Example:
        >>> picture_of(b"...").size
        -1
    """
    if not 0 < len(payload) <= MOST_BYTES:
        much = f"larger than {MOST_BYTES >> 20} MiB" if payload else "empty"
        raise InputError(f"{what}: its bytes are {much}. Remedy: another picture")
    return HeldPicture(hashlib.sha256(payload).hexdigest(), what, payload=payload)


def payload_of(picture: Picture) -> bytes:
    """The bytes of a picture. Raises PictureError where they are gone or no longer those that the row was read with."""
    if isinstance(picture, HeldPicture):
        return picture.payload
    try:
        with Path(picture.path).open("rb") as file:
            file.seek(picture.start)
            payload = file.read(picture.size)
    except OSError as error:
        raise PictureError(
            f"{picture.path}: cannot be read ({error.strerror}), but a row needs this picture. Remedy: put it back, or "
            "run the command again where the rows have changed"
        ) from error
    if hashlib.sha256(payload).hexdigest() != picture.sha256:
        raise PictureError(
            f"{picture.path}: the picture has changed since its row was read. Remedy: run the command again"
        )
    return payload


@lru_cache(maxsize=200_000)  # several tasks ask about the same pictures; a hundred bytes each
def _digest(path: str, _changed: int, _size: int, _inode: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(payload: bytes, where: str) -> Picture:
    digest = hashlib.sha256(payload).hexdigest()
    path = settings().cache / "pictures" / digest[:2] / digest
    try:
        if not path.is_file() or path.stat().st_size != len(payload):
            write_bytes(path, payload)
    except OSError as error:
        raise InputError(
            f"{where}: the picture cannot be kept in {path.parent} ({error.strerror}). Remedy: free space, or another "
            "DEPT_CACHE"
        ) from error
    return Picture(digest, str(path))
