"""What a predictor may be given, as rows of the template's fields: texts, tables, mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import InputError


def rows_of(inputs: Any, fields: Sequence[str]) -> list[dict[str, str]]:
    """Inputs of any accepted shape as one mapping of the template's fields per row.

    Args:
        inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings).

    Raises:
        InputError: a field is missing, or an input is no text.
    """
    if isinstance(inputs, str):
        inputs = [inputs]
    if isinstance(inputs, (pd.Series, np.ndarray)):
        inputs = np.asarray(inputs, dtype=object).reshape(-1).tolist()
    if isinstance(inputs, Mapping):
        columns = all(isinstance(value, (list, tuple, np.ndarray, pd.Series)) for value in inputs.values())
        inputs = pd.DataFrame(dict(inputs) if columns else [dict(inputs)])
    if isinstance(inputs, pd.DataFrame):
        inputs = inputs.to_dict(orient="records")
    if not isinstance(inputs, Sequence):
        raise InputError(
            f"predict: {type(inputs).__name__} is no text. Remedy: give texts, or a table with the "
            f"column{'s' if len(fields) > 1 else ''} {', '.join(fields)}"
        )
    return [_row(number, item, fields) for number, item in enumerate(inputs)]


def _row(number: int, item: Any, fields: Sequence[str]) -> dict[str, str]:
    if isinstance(item, str):
        if len(fields) != 1:
            raise InputError(
                f"predict: this task reads {', '.join(fields)}, not one text. Remedy: give a table with these columns"
            )
        item = {fields[0]: item}
    found = {name: item.get(name) for name in fields} if isinstance(item, Mapping) else {fields[0]: item}
    for name, value in found.items():
        if not isinstance(value, str):
            raise InputError(
                f"predict: row {number}: {name} is {value!r}, not text. Remedy: give texts, or a table with the "
                f"columns {', '.join(fields)}"
            )
    return {name: str(value) for name, value in found.items()}
