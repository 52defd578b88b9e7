"""Cells of one row -> record: the checks that hold for every source. Pure."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from decimal import Decimal
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from infra.errors import InputError
from tasks.formatting import Record
from tasks.pictures import Picture
from tasks.plain import composed, listed, nearest, normalise, shown, unwritable
from tasks.spec import Task

Row = dict[str, Any]  # column -> value
# How tables write that there is nothing; of use as labels all the same where the verbalizer names them.
NOTHING = frozenset(("nan", "NaN", "NAN", "NaT", "<NA>", "NA", "N/A", "#N/A", "n/a", "None", "null", "NULL"))
NO_NUMBER = frozenset(("nan", "NaN", "NAN", "NaT", "<NA>"))  # those that no one writes as an answer
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


class MissingCellError(InputError):
    """A label or answer that is not there: readers count them and name all their rows."""


def pick(row: Row, column: str) -> Any:
    """The value of a column; `a.b` goes into column a's key b, in lists into each item. Raises KeyError."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, list):
            value = [item.get(part) if isinstance(item, dict) else None for item in value]
        elif isinstance(value, dict):
            value = value[part] if part in value else _same_letters(value, part, column)
        else:
            raise KeyError(column)
    return value


def missing(name: str, columns: Any, where: str) -> InputError:
    """The error for a column that is not there."""
    there = [str(column) for column in columns]
    close = nearest(name, there)
    hint = f"; did you mean {shown(close)}?" if close is not None else ";"
    return InputError(
        f"{where}: no column {name!r}{hint} columns there: {listed(there) or 'none'}. "
        "Set text: (or columns:), label: and picture: to match"
    )


def to_record(
    task: Task,
    row: Row,
    where: str,
    name: str | None = None,
    columns: dict[str, str] | None = None,
    picture: Picture | None = None,
) -> Record:
    """The record of one row of a package or file; `where` (file and line) heads an error.

    name: the row's id; None: by content, so that sorting a file changes neither its splits nor its hash.
    columns: `task.columns`, found once for many rows.
    picture: the row's, of a task whose rows have pictures.

    Raises InputError for an empty or unusable text, a label outside the verbalizer and a number outside the grid;
    MissingCellError, which is one, for a missing label or answer.
    """
    places = task.columns if columns is None else columns
    fields = {field: text(cell(row, column, where), column, where) for field, column in places.items()}
    column = task.source.label
    found = _answer(task, cell(row, column, where), column, where)
    if found is None:
        what = "label" if task.scored else "answer"
        raise MissingCellError(f"{where}: the {what} ({column!r}) is missing; fill it in or remove the row")
    return _record(name, fields, found, "", picture)


def to_hub_record(task: Task, row: Row, where: str, name: str | None, picture: Picture | None = None) -> Record | None:
    """The record of one row of the hub; None where it has no label (null, or -1 as hidden labels are written).

    Text may be empty in some fields, not in all; lists are joined by commas. Raises InputError as `to_record` does.
    """
    fields = {field: _loose(cell(row, column, where)) for field, column in task.columns.items()}
    found = hub_answer(task, cell(row, task.source.label, where), where)
    if found is None:
        return None
    if fields and not any(fields.values()):
        raise InputError(f"{where}: all of {', '.join(task.columns.values())} are empty; check source.columns")
    return _record(name, fields, found, str(row.get("group", "")) if task.convert == "multirc" else "", picture)


def hub_answer(task: Task, value: Any, where: str) -> str | tuple[str, ...] | None:
    """The label or answers in a cell of the hub; None where there is none. Raises InputError as `to_record` does."""
    if nothing(value) or (value == -1 and task.kind == "classification" and "-1" not in task.labels):
        return None
    try:
        return _answer(task, value, task.source.label, where)
    except MissingCellError:
        return None


def nothing(value: Any) -> bool:
    """Whether a cell holds no value: null, not-a-number (also of a Decimal or a date), an empty text or list."""
    if value is None or value == "" or value == []:
        return True
    if isinstance(value, (float, Decimal)):
        return math.isnan(value)
    return type(value).__name__ in ("NaTType", "NAType")  # pandas, which is not imported for that


def written(value: Any, where: str, column: str) -> str:
    """One value as text: as JSON writes it (true, 1, 2.5), decimals in full, dates as 2026-01-31, bytes as UTF-8.

    Raises InputError for a list, a mapping and bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return composed(value)
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        try:
            return composed(bytes(value).decode())
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: {column!r} holds bytes that are not UTF-8 text; write a string") from error
    raise InputError(f"{where}: the label ({column!r}) is not a string or number; write one label a row")


def text(value: Any, column: str, where: str) -> str:
    """A cell of text, normalised. Raises InputError where it is no text, empty, or cannot be tokenised."""
    if isinstance(value, (bytes, bytearray)):
        value = written(value, where, column)
    if not isinstance(value, str) and not nothing(value):
        raise InputError(f"{where}: {column!r} is not text but {_sample(value)}; write a string")
    plain = normalise(value) if isinstance(value, str) else ""
    if not plain:
        raise InputError(f"{where}: the text ({column!r}) is empty; fill it in or remove the row")
    _check_letters(plain, where)
    return plain


def label(value: Any, column: str, where: str) -> str:
    """A cell of one label or number as text. Raises MissingCellError where it is missing, InputError for a list."""
    plain = "" if nothing(value) else normalise(written(value, where, column))
    if not plain:
        raise MissingCellError(f"{where}: the label ({column!r}) is missing; fill it in or remove the row")
    return plain


def meant(plain: str, labels: dict[str, int]) -> str | None:
    """The label of the verbalizer that a cell says: the same text, or the same whole number (1 for 1.0)."""
    if plain in labels:
        return plain
    if not WHOLE.fullmatch(plain):
        return None
    same = [known for known in labels if WHOLE.fullmatch(known) and float(known) == float(plain)]
    return same[0] if len(same) == 1 else None


def cell(row: Row, column: str, where: str) -> Any:
    """The value of a column; see `pick`. Raises InputError that names the columns there."""
    try:
        return pick(row, column)
    except KeyError:
        raise missing(column, row, where) from None


def _record(
    name: str | None,
    fields: dict[str, str],
    found: str | tuple[str, ...],
    group: str = "",
    picture: Picture | None = None,
) -> Record:
    if name is None:
        said = quoted(found) if isinstance(found, str) else json.dumps(found)
        parts = [*map(quoted, fields.values()), said, *([] if picture is None else [quoted(picture.sha256)])]
        content = ", ".join(parts)  # as json.dumps writes a list, many times faster
        name = hashlib.sha256(f"[{content}]".encode()).hexdigest()[:16]
    if isinstance(found, str):
        return Record(name, fields, found, (), group, picture)
    return Record(name, fields, _usual(found), found, group, picture)


def _usual(answers: tuple[str, ...]) -> str:
    """The answer to train on: the one that most people gave, of as many the first."""
    return max(answers, key=answers.count)


def _same_letters(row: Row, part: str, column: str) -> Any:
    """The value of the key that is written with other code points for the same letters."""
    for key, value in row.items():
        if isinstance(key, str) and composed(key) == part:
            return value
    raise KeyError(column)


def _answer(task: Task, value: Any, column: str, where: str) -> str | tuple[str, ...] | None:
    if not task.scored:
        return _answers(value, column, where, "vqa_accuracy" in task.metrics)
    plain = label(value, column, where)
    if task.grid:
        return _number(task, plain, column, where)
    found = meant(plain, task.index)
    if found is not None:
        return found
    if plain in NOTHING:
        raise MissingCellError(
            f"{where}: the label ({column!r}) is missing ({plain} stands there); fill it in or remove the row"
        )
    close = nearest(plain, task.labels)
    hint = f", but {shown(close)} is" if close is not None else ""
    raise InputError(
        f"{where}: label {shown(plain)} is not in the verbalizer of task {task.name} ({_labels(task)}){hint}; "
        "add it there or mend the row"
    )


def _answers(value: Any, column: str, where: str, again: bool) -> tuple[str, ...] | None:
    """The answers of a cell, each once, or (`again`) as often as it was given, which VQA's accuracy counts."""
    found = [written(v, where, column) if isinstance(v, (bytes, bytearray)) else v for v in _items(value)]
    found = [item for item in found if not nothing(item)]
    if any(not isinstance(item, str) for item in found):
        raise InputError(f"{where}: the answer ({column!r}) is neither a string nor a list of strings")
    every = [plain for item in found if (plain := normalise(item)) and plain not in NO_NUMBER]
    said = tuple(every if again else dict.fromkeys(every))
    for plain in said:
        _check_letters(plain, where)
    return said or None


def _number(task: Task, plain: str, column: str, where: str) -> str:
    grid = task.grid
    assert grid is not None
    if plain in NOTHING:
        raise MissingCellError(
            f"{where}: the number ({column!r}) is missing ({plain} stands there); fill it in or remove the row"
        )
    try:
        number = float(plain)
    except ValueError:
        number = math.nan
    if not grid.low <= number <= grid.high:
        raise InputError(
            f"{where}: {shown(plain)} ({column!r}) is not a number from {grid.low:g} to {grid.high:g}; "
            "widen the task's grid or mend the row"
        )
    return plain


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _labels(task: Task) -> str:
    more = f", … {len(task.labels)} in all" if len(task.labels) > 20 else ""
    return ", ".join(task.labels[:20]) + more


def _check_letters(plain: str, where: str) -> None:
    if unwritable(plain):
        raise InputError(f"{where}: the text holds a NUL or half a surrogate pair; remove it")


def _sample(value: Any) -> str:
    return json.dumps(value, default=str)[:40] if not isinstance(value, float) else str(value)


def _loose(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_loose(item) for item in value)
    if isinstance(value, (bytes, bytearray)):
        return normalise(bytes(value).decode(errors="replace"))
    return "" if nothing(value) else normalise(str(value))
