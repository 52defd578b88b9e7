"""Pictures that a table names: the table in a folder of pictures, the column, the folder, and which cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.planning.look_at_data import FILES, Column, Data
from infra.errors import InputError
from tasks.picture_reader import faults
from tasks.pictures import Finder
from tasks.plain import listed

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"))
LIKELY = 0.9  # of a column's cells that end as pictures do
TRIED = 50  # names by which the folder of the pictures is found
Watch = Callable[[int], AbstractContextManager[Callable[[], None]]]  # pictures in all -> what each of them calls


class BadPicturesError(InputError):
    """Some pictures cannot be read; `lines` says why, one line each."""

    def __init__(self, message: str, lines: Sequence[str]) -> None:
        super().__init__(message)
        self.lines = tuple(str(InputError(line)) for line in lines)


@dataclass(frozen=True)
class Shown:
    """column: that names pictures, or holds their bytes. folder: where names count from."""

    column: str
    folder: Path


def table_in(folder: Path) -> Path:
    """The one table of a folder of pictures. Raises InputError for none, or several."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in FILES - {".txt"} and path.is_file())
    except OSError as error:
        raise InputError(f"tasks new: {folder}: cannot be read ({error.strerror}); mend its permissions") from error
    if not found:
        raise InputError(
            f"tasks new: {folder}: no table in this folder. Remedy: a csv beside the pictures, with columns for the "
            "picture's file name, the text or question (if any), and the label or answer"
        )
    if len(found) > 1:
        raise InputError(
            f"tasks new: {folder}: several tables ({listed([path.name for path in found])}). Remedy: name the one of "
            "the training rows, the others as --validation and --test"
        )
    return found[0]


def guess_pictures(data: Data, table: Path, asked: str | None) -> Shown | None:
    """Which column names pictures, and where they lie; None where none seems to.

    Args:
        asked: the column, as a user names it.

    Raises:
        InputError: no such column.
    """
    held = [name.removesuffix(".bytes") for name in data.names if name.endswith(".bytes")]
    if asked is not None and asked not in held:
        data.column(asked)
    column = asked or next((name for name in (*held, *data.names) if name in held or _names(data.column(name))), None)
    if column is None:
        return None
    parent = table if table.is_dir() else table.parent
    names = [str(row[column]) for row in data.rows if row.get(column)][:TRIED]
    return Shown(column, parent if column in held else _folder(parent, names))


def without(data: Data, shown: Shown) -> Data:
    """The data without the column of the pictures, for guesses about the others."""
    gone = _held(shown.column)
    parts = {id(part): [{k: v for k, v in row.items() if k not in gone} for row in part] for part in _parts(data)}
    splits = {name: parts[id(part)] for name, part in data.splits.items()}
    return Data(parts[id(data.rows)], data.delimiter, data.words, splits, data.paths)


def check_all(data: Data, shown: Shown, table: Path, watch: Watch | None = None) -> int:
    """Find and decode every picture of every split; returns how many distinct ones there are.

    Raises:
        BadPicturesError: some cannot be read.
    """
    find, wrong, found = Finder(shown.folder), dict[str, str](), []
    names = {id(part): str(data.paths.get(role, table)) for role, part in data.splits.items()}
    for part in _parts(data):
        for number, row in enumerate(part, start=1):
            cell = next((row[name] for name in _held(shown.column) if row.get(name)), None)
            where = f"{names.get(id(part), table)}, row {number}"
            try:
                found.append(find(cell, where))
            except InputError as error:
                wrong.setdefault(_key(cell, where), str(error))
    distinct = {picture.sha256: picture for picture in found}
    with watch(len(distinct)) if watch else contextlib.nullcontext(lambda: None) as step:
        wrong |= faults(distinct.values(), step)
    if wrong:
        n = len(distinct) + sum(key not in distinct for key in wrong)
        raise BadPicturesError(
            f"tasks new: {len(wrong):,} of {n:,} pictures cannot be used. Remedy: mend or replace them, or take their "
            "rows out",
            list(wrong.values()),
        )
    return len(distinct)


def _held(column: str) -> tuple[str, str, str]:
    """The columns of a flat row in which a picture may stand: its bytes, itself, its path."""
    return f"{column}.bytes", column, f"{column}.path"


def _key(cell: Any, where: str) -> str:
    """By what a picture is the same one as another row's: its name; without one the row."""
    return cell if isinstance(cell, str) and cell.strip() else where


def _names(column: Column) -> bool:
    said = [value for value in column.there if isinstance(value, str)]
    ends = sum(Path(value.strip()).suffix.lower() in ENDINGS for value in said)
    return bool(said) and len(said) == len(column.there) and ends >= LIKELY * len(said)


def _folder(parent: Path, names: Sequence[str]) -> Path:
    """The table's folder, or the folder in it, that has most of the names."""
    try:
        inside = sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:
        inside = []

    def there(folder: Path) -> int:
        with contextlib.suppress(OSError, ValueError):
            return sum((folder / name.strip()).is_file() for name in names)
        return 0

    return max((parent, *inside), key=there)


def _parts(data: Data) -> Iterable[list[dict[str, Any]]]:
    return {id(part): part for part in (data.rows, *data.splits.values())}.values()
