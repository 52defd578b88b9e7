"""Rows as an adapter was trained to read and answer them, where its task has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.execution.context import RunContext
from infra.errors import InputError
from tasks.formatting import Example
from tasks.load import load_splits
from tasks.metrics import INVALID
from tasks.spec import Task

_READ = ("cut", "max_length", "answer_length", "chat", "picture")  # what changes no row


def as_trained(
    context: RunContext, name: str, about: Mapping[str, Any], rows: Sequence[Example]
) -> tuple[RunContext, Sequence[Example]]:
    """The context and the same rows under the template, labels, words and lengths of an adapter's file, and with their
    pictures where it sees them.

    A champion is asked as it would be asked when it serves. Where its template needs fields that the rows no longer
    have, it is asked as the task stands today.

    Args:
        about: the adapter's metadata. rows: of the task as it stands.
    """
    task = context.tasks[name]
    try:
        own = _own(task, about)
        if own == task:
            return context, rows
        if own.model_copy(update={key: getattr(task, key) for key in _READ}) == task:
            return replace(context, tasks={**context.tasks, name: own}), rows
        splits = load_splits(own)
    except (InputError, ValueError):
        return context, rows
    by_id = {row.id: row for part in splits.parts().values() for row in part}
    if any(row.id not in by_id for row in rows):
        return context, rows
    changed = replace(context, tasks={**context.tasks, name: own}, splits={**context.splits, name: splits})
    return changed, [by_id[row.id] for row in rows]


def as_today(task: Task, own: Task, answers: Sequence[int] | Sequence[str]) -> Sequence[int] | Sequence[str]:
    """Class indices of an adapter's own task as those of the task today; INVALID for a label that is gone."""
    if not task.scored or own.labels == task.labels:
        return answers
    place = {label: index for index, label in enumerate(task.labels)}
    return [place.get(own.labels[int(answer)], INVALID) if answer != INVALID else INVALID for answer in answers]


def _own(task: Task, about: Mapping[str, Any]) -> Task:
    body: dict[str, Any] = {"template": about.get("template", task.template)}
    if task.kind == "classification" and about.get("words"):
        pairs = tuple(zip(map(str, about["labels"]), map(str, about["words"]), strict=True))
        if {label for label, _ in pairs} >= set(task.labels):  # else its rows could not be read
            body["verbalizer"] = pairs
    body |= {key: about[key] for key in ("cut", "max_length") if key in about}
    body["chat"] = bool(about.get("chat", False))
    if task.pictured:  # the task may have hidden them then, or hide them now
        body["picture"] = "shown" if about.get("picture") else "hidden"
    if not task.scored and about.get("answer_length"):
        body["answer_length"] = about["answer_length"]
    if all(getattr(task, key) == value for key, value in body.items()):
        return task
    return Task.model_validate({**task.model_dump(), **body})
