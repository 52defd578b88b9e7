"""Names of classes, where a data set of the library `datasets` keeps numbers: a verbalizer may name either."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.plain import normalise
from tasks.sources.cells import Row, pick
from tasks.sources.readers import Lines
from tasks.spec import Task


def class_names(path: Path, format: str | None = None) -> dict[str, list[str]]:
    """Column -> names of its classes, as the library wrote them beside the rows of a saved data set or a parquet file.

    Nothing for other files, and for one that cannot be read: whoever reads its rows says so.
    """
    try:
        if path.is_dir():
            return named(json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))["features"])
        if format == "parquet" or (format is None and path.suffix.lower() == ".parquet"):
            from pyarrow import parquet  # takes half a second: only where it is needed

            told = (parquet.read_schema(path).metadata or {}).get(b"huggingface")
            return named(json.loads(told)["info"]["features"]) if told else {}
    except Exception:  # of pyarrow's many kinds, or a file that others have written
        return {}
    return {}


def named(features: Any, before: str = "") -> dict[str, list[str]]:
    """Column (a.b: key b of a) -> names of its classes, of features as the library writes them into JSON."""
    found: dict[str, list[str]] = {}
    for name, kind in features.items() if isinstance(features, dict) else ():
        if not isinstance(kind, dict):
            continue
        if kind.get("_type") == "ClassLabel":
            found[f"{before}{name}"] = [str(one) for one in kind["names"]]
        elif "_type" not in kind:
            found |= named(kind, f"{before}{name}.")
    return found


def with_names(task: Task, lines: Lines, known: Mapping[str, Sequence[str]]) -> Lines:
    """The rows, with the name of its class for a label that is a number; as they are where the verbalizer has numbers.

    Args:
        known: see `class_names`.
    """
    said = _said(task, known.get(task.source.label, ()))
    return _renamed(lines, task.source.label, said) if said else lines


def _said(task: Task, names: Sequence[str]) -> dict[int, str]:
    """Number of a class -> what stands for it; numbers that the verbalizer has instead of the name are left out."""
    labels = task.index
    if task.kind != "classification" or all(key.isdecimal() and int(key) < len(names) for key in labels):
        return {}
    plain = {number: normalise(name) for number, name in enumerate(names)}
    return {number: name for number, name in plain.items() if name in labels or str(number) not in labels}


def _renamed(lines: Lines, column: str, said: Mapping[int, str]) -> Iterator[tuple[str, Row]]:
    for where, row in lines:
        try:
            value = pick(row, column)
        except KeyError:
            yield where, row  # the checks of its cells name the column
            continue
        yield where, {**row, column: said[value]} if isinstance(value, int) and value in said else row
