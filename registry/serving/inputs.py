"""What a predictor may be given, as rows of the template's fields: texts, tables, mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from tasks.plain import unwritable

SHOWN = 60  # characters of a value that a message quotes


def rows_of(inputs: Any, fields: Sequence[str]) -> list[dict[str, str]]:
    """Inputs of any accepted shape as one mapping of the template's fields per row.

    Args:
        inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings).

    Raises:
        InputError: a field is missing, or an input is no text.
    """
    found = []
    for number, item in enumerate(items_of(inputs, fields)):
        try:
            found.append(row_of(item, fields))
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


def row_of(item: Any, fields: Sequence[str]) -> dict[str, str]:
    """The fields of one row; the message of an error names no row.

    Raises:
        InputError: a field is missing, is no text, or holds what no tokenizer takes.
    """
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
