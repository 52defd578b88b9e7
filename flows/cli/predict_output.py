"""How answers are written: lines divided by tabs, csv, jsonl, parquet, or one JSON document. Row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from flows.cli.predict_input import FORMATS
from flows.cli.terminal import cell, finite
from infra.errors import InputError


@dataclass(frozen=True)
class Answered:
    """One answer. `probability` is of the answer, `probabilities` of each label; None where the answer is written."""

    where: str
    fields: dict[str, str]
    label: str
    answer: str
    probability: float | None
    probabilities: dict[str, float] | None


class Writer(Protocol):
    """Takes answers one by one."""

    def write(self, answered: Answered) -> None:
        """One more."""

    def close(self) -> None:
        """That was the last."""


class Lines:
    """`answer, probability, text` divided by tabs; with all probabilities also a header and a column for each label."""

    def __init__(self, stream: IO[str], fields: Sequence[str], labels: Sequence[str]) -> None:
        self.stream, self.labels = stream, labels
        if labels:
            self.stream.write("\t".join(map(cell, ("answer", "probability", *labels, *fields))) + "\n")

    def write(self, answered: Answered) -> None:
        """One more."""
        given = answered.probabilities or {}
        numbers = [answered.probability, *(given.get(label) for label in self.labels)]
        shown = ["" if number is None else f"{number:.3f}" for number in numbers]
        cells = [cell(answered.answer), *shown, *map(cell, answered.fields.values())]
        self.stream.write("\t".join(cells) + "\n")

    def close(self) -> None:
        """Nothing is left to be done."""


class Csv:
    """A header, then a row for each answer, with quotes where they are needed."""

    def __init__(self, stream: IO[str], fields: Sequence[str], labels: Sequence[str], delimiter: str) -> None:
        self.writer, self.labels = csv.writer(stream, delimiter=delimiter, lineterminator="\n"), labels
        self.writer.writerow([*fields, "label", "answer", "probability", *(f"p({label})" for label in labels)])

    def write(self, answered: Answered) -> None:
        """One more."""
        given = answered.probabilities or {}
        numbers = [answered.probability, *(given.get(label) for label in self.labels)]
        shown = ["" if number is None else repr(number) for number in numbers]
        self.writer.writerow([*answered.fields.values(), answered.label, answered.answer, *shown])

    def close(self) -> None:
        """Nothing is left to be done."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, answered: Answered) -> None:
        """One more."""
        self.stream.write(json.dumps(as_json(answered), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Nothing is left to be done."""


class Document:
    """One JSON document: facts about the model, then the answers, written as they come."""

    def __init__(self, stream: IO[str], facts: dict[str, Any]) -> None:
        self.stream, self.before = stream, ""
        head = json.dumps(facts, ensure_ascii=False, indent=2, default=str).removesuffix("\n}")
        self.stream.write(f'{head},\n  "answers": [')

    def write(self, answered: Answered) -> None:
        """One more."""
        self.stream.write(f"{self.before}\n    {json.dumps(as_json(answered), ensure_ascii=False)}")
        self.before = ","

    def close(self) -> None:
        """End the document."""
        self.stream.write("\n  ]\n}\n")


class Parquet:
    """A parquet file, one row group for each thousand answers or so."""

    def __init__(self, path: Path, fields: Sequence[str], labels: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        texts = [(name, pa.string()) for name in (*fields, "label", "answer")]
        numbers = [(name, pa.float64()) for name in ("probability", *(f"p({label})" for label in labels))]
        self.schema, self.labels, self.rows = pa.schema(texts + numbers), labels, list[list[Any]]()
        self.file = parquet.ParquetWriter(path, self.schema)

    def write(self, answered: Answered) -> None:
        """One more."""
        given = answered.probabilities or {}
        numbers = [answered.probability, *(given.get(label) for label in self.labels)]
        self.rows.append([*answered.fields.values(), answered.label, answered.answer, *numbers])
        if len(self.rows) >= 1024:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            columns = [
                pa.array(column, kind)
                for column, kind in zip(zip(*self.rows, strict=True), self.schema.types, strict=True)
            ]
            self.file.write_table(pa.Table.from_arrays(columns, schema=self.schema))
            self.rows = []


def as_json(answered: Answered) -> dict[str, Any]:
    """An answer as plain data."""
    return {
        "where": answered.where,
        "label": answered.label,
        "answer": answered.answer,
        "probability": finite(answered.probability),
        "probabilities": finite(answered.probabilities),
        "input": answered.fields,
    }


def form_of(path: Path) -> str:
    """The format that a file's ending asks for.

    Raises:
        InputError: an ending that names none.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"predict: --out {path}: which format? End it in .csv, .tsv, .jsonl or .parquet")
    return form
