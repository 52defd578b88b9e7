"""Answers of adapters on rows, and the task's own metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    adapters: Sequence[Adapter],
    tests: Sequence[tuple[str, Sequence[Example]]],
    progress: Callable[[int], None] | None = None,
) -> list[Measured]:
    """What each adapter reaches on its own rows, all of them in mixed batches.

    Args:
        adapters: of one shape.
        tests: for each adapter its task's name and examples.
        progress: called with the tokens of each micro-batch.
    """
    rows = [
        rows_of(context, of_task(name, rows), adapters[i].config, bool(adapters[i].metadata.get(CONTINUES)))
        for i, (name, rows) in enumerate(tests)
    ]
    scored = [i for i, (name, _) in enumerate(tests) if context.tasks[name].scored]
    items = [(i, row) for i in scored for row in rows[i]]
    scores = iter(context.backbone.score(adapters, items, progress=progress))
    texts = _written(context, adapters, {i: test for i, test in enumerate(tests) if i not in scored}, progress)
    found = []
    for i, (name, examples) in enumerate(tests):
        task = context.tasks[name]
        if i in texts:
            found.append(Measured(measure(task, examples, texts[i]), texts[i], sum(row.cut for row in rows[i])))
        else:
            found.append(of_scores(task, examples, rows[i], [next(scores) for _ in examples]))
    return found


def _written(
    context: RunContext,
    adapters: Sequence[Adapter],
    tests: Mapping[int, tuple[str, Sequence[Example]]],
    progress: Callable[[int], None] | None,
) -> dict[int, list[str]]:
    """Free answers, by adapter; those of one length in mixed batches."""
    lengths: dict[int, list[int]] = {}
    for i, (name, _) in tests.items():
        lengths.setdefault(room_of(context, name, adapters[i].config), []).append(i)
    found: dict[int, list[str]] = {}
    for longest, members in lengths.items():
        items = []
        for i in members:
            name, examples = tests[i]
            about: dict[str, Any] = cut_of(context.tasks[name]) | {
                "continues": bool(adapters[i].metadata.get(CONTINUES))
            }
            texts = [example.text for example in examples]
            rows = encode_open(context.backbone.tokens, texts, adapters[i].config, longest, **about)
            items += [(i, row) for row in rows]
        said = iter(context.backbone.generate(adapters, items, longest, progress=progress))
        found |= {i: [next(said).strip() for _ in tests[i][1]] for i in members}
    return found


def of_scores(
    task: Task, examples: Sequence[Example], rows: Sequence[Row], scores: Sequence[Sequence[float]]
) -> Measured:
    """The metrics of scored rows, and accuracy, macro-F1 and loss, which every scored task has."""
    chosen = predictions(scores)
    metrics = {**summarise(scores, rows), **measure(task, examples, chosen)}
    return Measured(metrics, chosen, sum(row.cut for row in rows))
