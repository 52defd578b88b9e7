"""Answers of adapters on rows, and the task's own metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dept.adapters.adapter import CONTINUES, Adapter
from dept.batches.tokenise import Row, encode_open
from dept.engine.evaluate import predictions, summarise
from flows.execution.context import RunContext
from flows.execution.rows import cut_of, of_task, room_of, rows_of
from tasks.formatting import Example
from tasks.metrics import measure
from tasks.spec import Task


@dataclass(frozen=True)
class Measured:
    """What an adapter reached on rows.

    Attributes:
        metrics: percent, loss in nats. answers: of each row, the class index (INVALID where a score is not finite) or
            the text. cut: rows whose text was cut.
    """

    metrics: dict[str, float]
    answers: list[int] | list[str]
    cut: int


def measured(
    context: RunContext,
    adapter: Adapter,
    name: str,
    examples: Sequence[Example],
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """What an adapter reaches on rows of a task.

    Args:
        name: of the task.
        progress: called with the tokens of each micro-batch.
    """
    task, continues = context.tasks[name], bool(adapter.metadata.get(CONTINUES))
    rows = rows_of(context, of_task(name, examples), adapter.config, continues)
    if task.scored:
        scores = context.backbone.score([adapter], [(0, row) for row in rows], progress=progress)
        return of_scores(task, examples, rows, scores)
    longest = room_of(context, name, adapter.config)
    about: dict[str, Any] = cut_of(task) | {"continues": continues}
    texts = [example.text for example in examples]
    asked = encode_open(context.backbone.tokens, texts, adapter.config, longest, **about)
    said = context.backbone.generate([adapter], [(0, row) for row in asked], longest, progress=progress)
    answers = [text.strip() for text in said]
    return Measured(measure(task, examples, answers), answers, sum(row.cut for row in rows))


def of_scores(
    task: Task, examples: Sequence[Example], rows: Sequence[Row], scores: Sequence[Sequence[float]]
) -> Measured:
    """The metrics of scored rows, and accuracy, macro-F1 and loss, which every scored task has."""
    chosen = predictions(scores)
    metrics = {**summarise(scores, rows), **measure(task, examples, chosen)}
    return Measured(metrics, chosen, sum(row.cut for row in rows))
