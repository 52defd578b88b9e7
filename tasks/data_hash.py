"""The hash of a task's rows, and of what else decides what is read of them and how answers are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted

from tasks.catalogue import catalogue
from tasks.formatting import Example
from tasks.kinds import DEFAULT_METRICS
from tasks.spec import Task


def data_hash(task: Task, parts: Mapping[str, tuple[Example, ...]]) -> str:
    """sha256 (hex) over the rows of each part, and over what else of the task decides numbers; see `Splits`."""
    lines, words, plain = [], task.words, task.kind == "classification"
    for name, rows in parts.items():
        for row in rows:
            group = f", {quoted(row.group)}" if row.group else ""
            seen = f", {quoted(row.picture.sha256)}" if row.picture else ""
            said = quoted(words[row.label]) if plain else json.dumps([row.target, row.answers, row.value])[1:-1]
            # As json.dumps writes a list, many times faster.
            line = f"[{quoted(name)}, {quoted(row.id)}, {quoted(row.text)}, {row.label}, {said}{group}{seen}]"
            lines.append(line)
    lines += [json.dumps([key, value]) for key, value in _own(task).items()]
    # How answers are judged decides numbers too: what it adds to the rows, so that trials done stay done.
    metrics = task.metrics if task.metrics != DEFAULT_METRICS[task.kind] else ()
    unseen = set(words) - {row.target for rows in parts.values() for row in rows}
    if metrics or unseen:
        lines.append(json.dumps(["judged by", *metrics, *sorted(unseen)]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _own(task: Task) -> dict[str, object]:
    """Keys that decide what is read of a text, where they are set. The `max_length` of a catalogue's task does not
    count as long as it is the catalogue's, which is part of the task's version."""
    said = {"cut": task.cut, "answer_length": task.answer_length}
    said |= {"picture": task.picture} if task.pictured and not task.sees else {}
    said |= {"chat": True} if task.chat else {}
    found: dict[str, object] = {key: value for key, value in said.items() if value is not None}
    shipped = catalogue().get(task.name)
    if task.max_length != (shipped.max_length if shipped else None):
        found["max_length"] = task.max_length
    return found
