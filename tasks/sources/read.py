"""Rows of a task: from files of installed wheels, a user's own files, or a data set saved in a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.errors import InputError
from tasks.formatting import Record
from tasks.picture_reader import check_pictures
from tasks.pictures import Finder
from tasks.plain import shown
from tasks.sources.cells import NOTHING, MissingCellError, cell, meant, to_hub_record, to_record
from tasks.sources.classes import class_names, with_names
from tasks.sources.delimited import read_csv
from tasks.sources.readers import Lines, read_jsonl, read_parquet, read_saved
from tasks.sources.wheel import in_wheel, read_package
from tasks.spec import FileSource, HubSource, PackageSource, Task

ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
FORMATS = "csv, jsonl, parquet or dataset"
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def read_source(task: Task) -> tuple[list[Record], int]:
    """Rows of a task's package or file (of the training rows, where there are several files), and how many were left
    out as neutral (see Threshold) or, of a saved data set, as unlabelled.

    Raises InputError, naming file and line, for a file that is missing, empty, not UTF-8 or malformed, a column that
    is missing, an empty text, a missing label or answer and a label outside the verbalizer or the grid.
    """
    source = task.source
    if isinstance(source, HubSource):
        raise TypeError(f"task {task.name} comes from the hub: see tasks.sources.hub.read_hub")
    if isinstance(source, FileSource):
        return _read_file(task, source, locate(source)["train"])
    return read_package(task, source, locate(source)["train"], "")


def read_parts(task: Task) -> tuple[dict[str, list[Record]], int]:
    """Rows of each of a user's files, or of a package's, by role (train, validation, test), and how many were left out
    as unlabelled or neutral.

    Splits that a saved data set has without being named in the block count where they have a label.
    Raises InputError as `read_source` does, and for a named file without a row of use.
    """
    source = task.source
    if isinstance(source, PackageSource):
        read = {role: read_package(task, source, path, f"{role}-") for role, path in locate(source).items()}
        return {role: records for role, (records, _) in read.items()}, sum(left for _, left in read.values())
    if not isinstance(source, FileSource):
        raise TypeError(f"task {task.name} has no files of its own")
    parts: dict[str, list[Record]] = {}
    unlabelled = 0
    for role, path in locate(source).items():
        records, left = _read_file(task, source, path)
        unlabelled += left
        if records:
            parts[role] = records
        elif role == "train" or role in source.paths:
            raise InputError(f"{path}: no row has a label; give at least three rows of each label")
    return parts, unlabelled


def read_table(
    path: Path,
    wanted: Sequence[str] = (),
    format: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    ends_row: tuple[str, Callable[[str], bool]] | None = None,
) -> Lines:
    """Rows of a csv, tsv, jsonl or parquet file or of a saved data set, each with its place ("FILE, line N").

    Args:
        wanted: columns of use; a csv must have them.
        format: csv, jsonl, parquet, dataset; None: by the ending, or a folder that save_to_disk wrote.
        delimiter, quotes, ends_row: see `tasks.sources.delimited.read_csv`.

    Raises:
        InputError: with file and line, also while the rows are read.
    """
    form = format or ("dataset" if path.is_dir() else ENDINGS.get(path.suffix.lower()))
    if form is None:
        raise InputError(f"{path}: cannot tell its format by the ending {shown(path.suffix)}; set format: {FORMATS}")
    if form == "dataset":
        return read_saved(path)
    if form == "csv":
        mark = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
        return read_csv(path, wanted, mark, quotes, ends_row)
    return read_jsonl(path) if form == "jsonl" else read_parquet(path, wanted)


def locate(source: PackageSource | FileSource) -> dict[str, Path]:
    """The source's files on this machine by role (one alone: train). Raises InputError when one is not there or not of
    use, or the wheel is not installed."""
    if isinstance(source, PackageSource):
        parts = {"train": source.path} | ({"test": source.test} if source.test else {})
        return {role: in_wheel(source, path) for role, path in parts.items()}
    found: dict[str, Path] = {}
    for role, path in source.paths.items():
        place = _there(path, source.format)
        inside = saved_splits(place) if place.is_dir() else {}
        if not inside:
            found[role] = place
        elif role == "train":
            found = {**inside, **found}
        else:
            raise InputError(f"source.{role}: {place} holds several splits; name the folder of one")
    return {role: found[role] for role in ("train", "validation", "test") if role in found}


def saved_splits(folder: Path) -> dict[str, Path]:
    """Role -> folder of each split of a DatasetDict that save_to_disk wrote; nothing for another folder.

    Raises InputError where no split is called train.
    """
    if not (folder / "dataset_dict.json").is_file():
        return {}
    found = {role: [folder / name for name in names if (folder / name).is_dir()] for role, names in SPLITS.items()}
    if not found["train"]:
        raise InputError(f"{folder}: no split called train; name the folder of one split")
    return {role: places[0] for role, places in found.items() if places}


def stamp(task: Task) -> tuple[object, ...]:
    """Changes when a file of the task's package or own source changes. Raises InputError as `locate` does."""
    source = task.source
    if isinstance(source, HubSource):
        raise TypeError(f"task {task.name} comes from the hub: see tasks.sources.hub.stamp")
    places = list(locate(source).values())
    found: list[object] = []
    for place in places:
        inside = sorted(place.glob("*")) if isinstance(source, FileSource) and place.is_dir() else [place]
        for file in inside:
            try:
                stat = file.stat()
            except OSError as error:
                raise InputError(f"{file}: cannot be read ({error.strerror})") from error
            found.append((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _there(path: Path, form: str | None) -> Path:
    """The path, made absolute, of a file that can be read or of a saved data set."""
    try:
        place = path.expanduser().absolute()
        if place.is_dir() and form in (None, "dataset"):
            if any((place / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return place
            raise InputError(f"{place}: a folder, but none that save_to_disk of `datasets` wrote; give a file")
        if place.is_dir():
            raise InputError(f"{place}: a folder, not a {form} file; give the file")
        if place.is_file() and form != "dataset":
            if not os.access(place, os.R_OK):
                raise InputError(f"{place}: cannot be read (Permission denied); mend its permissions")
            return place
        if place.exists():
            what = "not a folder that save_to_disk wrote" if place.is_file() else "neither a file nor a folder"
            raise InputError(f"{place}: {what}; check the path and source.format")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]}: cannot be read ({reason}); check the path") from error
    raise InputError(f"{place}: no such file; check the path (relative paths count from the plan's folder)")


def _read_file(task: Task, source: FileSource, path: Path) -> tuple[list[Record], int]:
    wanted = list(dict.fromkeys([*task.columns.values(), source.label, *([source.picture] if source.picture else [])]))
    lines = read_table(path, wanted, source.format, source.delimiter, source.quotes, _ends_row(task, source))
    lines = with_names(task, lines, class_names(path, source.format))
    saved, columns = path.is_dir(), task.columns
    find = Finder((source.pictures or (path if saved else path.parent)).expanduser())
    records: list[Record] = []
    missing: list[str] = []
    first: MissingCellError | None = None
    unlabelled, seen = 0, False
    for where, row in lines:
        seen = True
        picture = find(cell(row, source.picture, where), where) if source.picture else None
        if saved:  # written by the hub's library, and read as rows of the hub are
            found = to_hub_record(task, row, where, None, picture)
            unlabelled += found is None
            records += [found] if found is not None else []
            continue
        try:
            records.append(to_record(task, row, where, None, columns, picture))
        except MissingCellError as error:
            first = first or error
            missing.append(where.rpartition(" ")[2])
    if not seen:
        raise InputError(f"{path}: holds no rows; give at least three rows of each label")
    if first is not None and len(missing) > 1:
        others = ", ".join(missing[1:10]) + (" …" if len(missing) > 10 else "")
        fault, _, remedy = str(first).partition("; ")
        more = f"{len(missing) - 1:,} more row{'s' * (len(missing) > 2)}"
        raise InputError(f"{fault}, and in {more} ({others}); {remedy}s") from first
    if first is not None:
        raise first
    check_pictures(record.picture for record in records if record.picture)
    return records, unlabelled


def _ends_row(task: Task, source: FileSource) -> tuple[str, Callable[[str], bool]] | None:
    """What a cell of the label's column looks like, by which rows inside a quoted field are known."""
    if task.grid:
        return source.label, _is_number
    return (source.label, lambda cell: meant(cell, task.index) is not None) if task.scored else None


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return cell in NOTHING
