"""Record -> example: pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from infra.errors import InputError
from tasks.pictures import Picture
from tasks.plain import fold, normalise
from tasks.spec import Task


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it came from its source.

    label: as it stands in the data; the number as text (regression); the first answer (qa, generation).
    answers: all right answers (qa, generation).
    group: rows of one question share it (MultiRC).
    picture: by reference; None where rows have none.
    """

    id: str
    fields: dict[str, str]
    label: str
    answers: tuple[str, ...] = ()
    group: str = ""
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the backbone reads it.

    text: template applied.
    label: class index; regression: index of the nearest number of the grid; qa and generation: 0.
    target: what is trained on: the label's word, the grid's number, the first answer.
    answers: all right answers (qa, generation).
    value: the number itself (regression).
    group: rows of one question share it (MultiRC).
    key: digest of the folded fields (and the picture) without the template, by which tasks of different templates find
        equal rows.
    picture: by reference, also where the task hides it (`Task.picture`): it is part of what the row is.
    """

    id: str
    text: str
    label: int
    target: str = ""
    answers: tuple[str, ...] = ()
    value: float | None = None
    group: str = ""
    key: str = field(default="", compare=False)
    picture: Picture | None = None

    @property
    def content(self) -> str:
        """What makes two rows of one template the same row: the folded text, and the picture."""
        return fold(self.text) if self.picture is None else f"{fold(self.text)}\x1f{self.picture.sha256}"


def render(task: Task, fields: dict[str, str]) -> str:
    """The task's template with the white-space-normalised fields put in. The template's own line breaks stay."""
    return task.template.format(**{name: normalise(value) for name, value in fields.items()})


def key_of(fields: dict[str, str], picture: Picture | None = None) -> str:
    """Digest of a row's folded fields. Their names do not count, nor does their order: (a, b) of one task may be (b, a)
    of another."""
    parts = [*sorted(map(fold, fields.values())), *([] if picture is None else [picture.sha256])]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:20]


def to_example(task: Task, record: Record) -> Example:
    """Example of a record. Raises InputError for a label outside the verbalizer, a number outside the grid."""
    text = render(task, record.fields)
    key, picture = key_of(record.fields, record.picture), record.picture
    if not task.scored:
        return Example(record.id, text, 0, record.label, record.answers, None, record.group, key, picture)
    if task.grid:
        value = float(record.label)
        if not task.grid.low <= value <= task.grid.high:
            raise InputError(
                f"task {task.name}, row {record.id}: the number {record.label} is outside the grid "
                f"({task.grid.low:g} to {task.grid.high:g}); widen the grid or mend the row"
            )
        index = round((value - task.grid.low) / task.grid.step)
        return Example(record.id, text, index, task.words[index], (), value, record.group, key, picture)
    if record.label not in task.index:
        raise InputError(
            f"task {task.name}, row {record.id}: label {record.label!r} is not in the verbalizer "
            f"({', '.join(task.labels)}); add it there or mend the row"
        )
    index = task.index[record.label]
    return Example(record.id, text, index, task.words[index], (), None, record.group, key, picture)
