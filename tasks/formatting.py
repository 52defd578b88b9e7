"""Record -> example: pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.errors import InputError
from tasks.spec import Task


@dataclass(frozen=True)
class Record:
    """One row as it came from its source; `label` as it stands in the data."""

    id: str
    fields: dict[str, str]
    label: str


@dataclass(frozen=True)
class Example:
    """One row as the backbone reads it: template applied; `label` is the class index."""

    id: str
    text: str
    label: int


def normalise(text: str) -> str:
    """Runs of white space (line breaks too) become one blank; none at the ends."""
    return " ".join(text.split())


def render(task: Task, fields: dict[str, str]) -> str:
    """The task's template with the white-space-normalised fields put in. The template's own line breaks stay."""
    return task.template.format(**{name: normalise(value) for name, value in fields.items()})


def to_example(task: Task, record: Record) -> Example:
    """Example of a record. Raises InputError for a label outside the verbalizer."""
    if record.label not in task.labels:
        raise InputError(
            f"task {task.name}, row {record.id}: label {record.label!r} is not in the verbalizer "
            f"({', '.join(task.labels)}); add it there or mend the row"
        )
    return Example(record.id, render(task, record.fields), task.labels.index(record.label))
