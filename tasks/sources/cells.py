"""Cells of one row -> record: the checks that hold for every source. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from infra.errors import InputError
from tasks.formatting import Record, normalise
from tasks.spec import Task

Row = dict[str, Any]  # column -> value


def pick(row: Row, column: str) -> Any:
    """The value of a column; `a.b` goes into column a's key b, in lists into each item. Raises KeyError."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, list):
            value = [item[part] if isinstance(item, dict) else None for item in value]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise KeyError(column)
    return value


def missing(name: str, columns: Any, where: str) -> InputError:
    """The error for a column that is not there."""
    there = ", ".join(repr(column) for column in columns) or "none"
    return InputError(
        f"{where}: no column {name!r}; columns there: {there}. Set text: (or columns:) and label: to match"
    )


def to_record(task: Task, row: Row, where: str, name: str | None = None) -> Record:
    """The record of one row of a package or file; `where` (file and line) heads an error.

    name: the row's id; None: by content, so that sorting a file changes neither its splits nor its hash.

    Raises InputError for an empty or unusable text, a missing label or answer, a label outside the verbalizer and a
    number outside the grid.
    """
    fields = {field: text(_cell(row, column, where), column, where) for field, column in task.columns.items()}
    column = task.source.label
    found = _answer(task, _cell(row, column, where), column, where)
    if found is None:
        what = "label" if task.scored else "answer"
        raise InputError(f"{where}: the {what} ({column!r}) is missing; fill it in or remove the row")
    if name is None:
        content = [*fields.values(), found if task.scored else list(found)]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return _record(name, fields, found)


def to_hub_record(task: Task, row: Row, where: str, name: str) -> Record | None:
    """The record of one row of the hub; None where it has no label (null, or -1 as hidden labels are written).

    Text may be empty in some fields, not in all; lists are joined by commas. Raises InputError as `to_record` does.
    """
    fields = {field: _loose(_cell(row, column, where)) for field, column in task.columns.items()}
    value = _cell(row, task.source.label, where)
    if value is None or (value == -1 and task.kind == "classification" and "-1" not in task.labels):
        return None
    found = _answer(task, value, task.source.label, where)
    if found is None:
        return None
    if not any(fields.values()):
        raise InputError(f"{where}: all of {', '.join(task.columns.values())} are empty; check source.columns")
    return _record(name, fields, found, str(row.get("group", "")) if task.convert == "multirc" else "")


def text(value: Any, column: str, where: str) -> str:
    """A cell of text, normalised. Raises InputError where it is no text, empty, or cannot be tokenised."""
    if not isinstance(value, str) and value is not None:
        raise InputError(f"{where}: {column!r} is not text but {json.dumps(value, default=str)[:40]}; write a string")
    plain = normalise(value or "")
    if not plain:
        raise InputError(f"{where}: the text ({column!r}) is empty; fill it in or remove the row")
    if "\x00" in plain or any("\ud800" <= char <= "\udfff" for char in plain):
        raise InputError(f"{where}: the text holds a NUL or half a surrogate pair; remove it")
    return plain


def label(value: Any, column: str, where: str) -> str:
    """A cell of one label or number as text. Raises InputError where it is missing or a list."""
    if isinstance(value, (bool, int, float)):
        value = json.dumps(value)  # as it stands in the file: true, 1
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: the label ({column!r}) is not a string or number; write one label a row")
    plain = (value or "").strip()
    if not plain:
        raise InputError(f"{where}: the label ({column!r}) is missing; fill it in or remove the row")
    return plain


def _record(name: str, fields: dict[str, str], found: str | tuple[str, ...], group: str = "") -> Record:
    if isinstance(found, str):
        return Record(name, fields, found, (), group)
    return Record(name, fields, found[0], found, group)


def _cell(row: Row, column: str, where: str) -> Any:
    try:
        return pick(row, column)
    except KeyError:
        raise missing(column, row, where) from None


def _answer(task: Task, value: Any, column: str, where: str) -> str | tuple[str, ...] | None:
    if not task.scored:
        found = value if isinstance(value, list) else [value]
        if any(not isinstance(item, str) for item in found if item is not None):
            raise InputError(f"{where}: the answer ({column!r}) is neither a string nor a list of strings")
        return tuple(dict.fromkeys(plain for item in found if item and (plain := normalise(item)))) or None
    plain = label(value, column, where)
    if task.grid:
        try:
            number = float(plain)
        except ValueError:
            number = math.nan
        if not task.grid.low <= number <= task.grid.high:
            raise InputError(
                f"{where}: {plain!r} ({column!r}) is not a number from {task.grid.low:g} to {task.grid.high:g}; "
                "widen the task's grid or mend the row"
            )
    elif plain not in task.labels:
        raise InputError(
            f"{where}: label {plain!r} is not in the verbalizer of task {task.name} "
            f"({', '.join(task.labels)}); add it there or mend the row"
        )
    return plain


def _loose(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_loose(item) for item in value)
    return "" if value is None else normalise(str(value))
