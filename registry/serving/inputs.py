"""What a predictor may be given, as rows of the template's fields, and of a picture: texts, tables, mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from registry.serving.pictures import picture_of_cell
from tasks.pictures import Picture
from tasks.plain import unwritable

SHOWN = 60  # characters of a value that a message quotes
Given = Mapping[str, str | Picture]  # a row: texts by field, and its picture by the column that pictures have


def rows_of(inputs: Any, fields: Sequence[str], picture: str | None = None) -> list[Given]:
    """Inputs of any accepted shape as one mapping of the template's fields per row.

    Args:
        inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings).
        picture: see `row_of`; its files are read.

    Raises:
        InputError: a field or a picture is missing, an input is no text, or a picture cannot be read.
    """
    single = not isinstance(inputs, (Mapping, pd.DataFrame, pd.Series, np.ndarray, list, tuple))
    if picture is not None and single:
        inputs = [inputs]
    found = []
    for number, item in enumerate(items_of(inputs, columns_of(fields, picture))):
        try:
            found.append(row_of(item, fields, picture, files=True))
        except InputError as error:
            raise InputError(f"predict: row {number}: {error}") from None
    return found


def items_of(inputs: Any, fields: Sequence[str]) -> list[Any]:
    """Inputs of any accepted shape as one item a row, whatever it holds.

    Args:
        fields: that are wanted, for messages.

    Raises:
        InputError: no rows can be made of it.
    """
    if isinstance(inputs, str):
        inputs = [inputs]
    if isinstance(inputs, (pd.Series, np.ndarray)):
        inputs = np.asarray(inputs, dtype=object).reshape(-1).tolist()
    if isinstance(inputs, Mapping):
        columns = all(isinstance(value, (list, tuple, np.ndarray, pd.Series)) for value in inputs.values())
        inputs = pd.DataFrame(dict(inputs) if columns else [dict(inputs)], dtype=object)
    if isinstance(inputs, pd.DataFrame):
        inputs = inputs.to_dict(orient="records")
    if not isinstance(inputs, Sequence):
        raise InputError(f"predict: {type(inputs).__name__} is no text. Remedy: give texts, or {table_of(fields)}")
    return list(inputs)


def row_of(item: Any, fields: Sequence[str], picture: str | None = None, files: bool = False) -> Given:
    """The fields of one row, and its picture; the message of an error names no row.

    Args:
        picture: column of the row's picture; None: rows have none.
        files: a picture may be named by its file, see `pictures.picture_of_cell`.

    Raises:
        InputError: a field or the picture is missing, a field is no text or holds what no tokenizer takes, or the
            picture's header is none that can be read.
    """
    if picture is None:
        return _texts_of(item, fields)
    if not isinstance(item, Mapping) and not fields:
        item = {picture: item}  # the template has no field: it is all that is asked about
    if not isinstance(item, Mapping):
        raise InputError(f"{picture} is missing. Remedy: give {table_of(columns_of(fields, picture))}")
    texts = _texts_of(item, fields) if fields else {}
    if (cell := item.get(picture)) is None or _is_missing(cell):
        raise InputError(f"{picture} is missing. Remedy: give {table_of(columns_of(fields, picture))}")
    return {**texts, picture: picture_of_cell(cell, picture, files)}


def columns_of(fields: Sequence[str], picture: str | None) -> tuple[str, ...]:
    """The columns of a table of rows: fields of the template, and that of pictures."""
    return tuple(fields) if picture is None else (*fields, picture)


def _texts_of(item: Any, fields: Sequence[str]) -> dict[str, str]:
    if isinstance(item, str):
        if len(fields) != 1:
            raise InputError(f"this task reads {', '.join(fields)}, not one text. Remedy: give {table_of(fields)}")
        item = {fields[0]: item}
    found = {name: item.get(name) for name in fields} if isinstance(item, Mapping) else {fields[0]: item}
    for name, value in found.items():
        if not isinstance(value, str):
            what = "missing" if _is_missing(value) else f"{repr(value)[:SHOWN]}, not text"
            raise InputError(f"{name} is {what}. Remedy: give texts, or {table_of(fields)}")
        if unwritable(value):
            raise InputError(f"{name} holds a NUL or half a surrogate pair. Remedy: remove it")
    return {name: str(value) for name, value in found.items()}


def table_of(fields: Sequence[str]) -> str:
    """What a table must have, for messages."""
    return f"a table with the column{'s' if len(fields) > 1 else ''} {', '.join(fields)}"


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
