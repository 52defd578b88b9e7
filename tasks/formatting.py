"""Record -> example: pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from infra.errors import InputError
from tasks.plain import fold, normalise
from tasks.spec import Task


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it came from its source.

    label: as it stands in the data; the number as text (regression); the first answer (qa, generation).
    answers: all right answers (qa, generation).
    group: rows of one question share it (MultiRC).
    """

    id: str
    fields: dict[str, str]
    label: str
    answers: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the backbone reads it.

    text: template applied.
    label: class index; regression: index of the nearest number of the grid; qa and generation: 0.
    target: what is trained on: the label's word, the grid's number, the first answer.
    answers: all right answers (qa, generation).
    value: the number itself (regression).
    group: rows of one question share it (MultiRC).
    key: digest of the folded fields without the template, by which tasks of different templates find equal rows.
    """

    id: str
    text: str
    label: int
    target: str = ""
    answers: tuple[str, ...] = ()
    value: float | None = None
    group: str = ""
    key: str = field(default="", compare=False)


def render(task: Task, fields: dict[str, str]) -> str:
    """The task's template with the white-space-normalised fields put in. The template's own line breaks stay."""
    return task.template.format(**{name: normalise(value) for name, value in fields.items()})


def key_of(fields: dict[str, str]) -> str:
    """Digest of a row's folded fields. Their names do not count, nor does their order: (a, b) of one task may be (b, a)
    of another."""
    return hashlib.sha256("\x1f".join(sorted(map(fold, fields.values()))).encode()).hexdigest()[:20]


def to_example(task: Task, record: Record) -> Example:
    """Example of a record. Raises InputError for a label outside the verbalizer, a number outside the grid."""
    text = render(task, record.fields)
    key = key_of(record.fields)
    if not task.scored:
        return Example(record.id, text, 0, record.label, record.answers, None, record.group, key)
    if task.grid:
        value = float(record.label)
        if not task.grid.low <= value <= task.grid.high:
            raise InputError(
                f"task {task.name}, row {record.id}: the number {record.label} is outside the grid "
                f"({task.grid.low:g} to {task.grid.high:g}); widen the grid or mend the row"
            )
        index = round((value - task.grid.low) / task.grid.step)
        return Example(record.id, text, index, task.words[index], (), value, record.group, key)
    if record.label not in task.index:
        raise InputError(
            f"task {task.name}, row {record.id}: label {record.label!r} is not in the verbalizer "
            f"({', '.join(task.labels)}); add it there or mend the row"
        )
    index = task.index[record.label]
    return Example(record.id, text, index, task.words[index], (), None, record.group, key)
