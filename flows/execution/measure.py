"""Test adapters: score or generate, then the task's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.batches.tokenise import Row
from dept.engine.evaluate import predictions, score_rows, summarise
from dept.engine.generate import ANSWER_TOKENS, Prompted, generate
from flows.execution.rows import of_task, rows_of
from tasks.formatting import Example
from tasks.metrics import measure
from tasks.spec import Task

if TYPE_CHECKING:
    from flows.execution.work import Workshop


def measured(
    shop: Workshop,
    adapters: Sequence[Adapter],
    tests: Sequence[tuple[str, Sequence[Example]]],
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """The metrics of each adapter on its own test rows, all of them in mixed batches; percent, loss in nats.

    Args:
        adapters: of one shape.
        tests: for each adapter its task's name and examples.
        progress: called with the tokens of each micro-batch.
    """
    rows = [rows_of(shop, of_task(name, rows), adapters[i].config) for i, (name, rows) in enumerate(tests)]
    scored = [i for i, (name, _) in enumerate(tests) if shop.tasks[name].scored]
    items = [(i, row) for i in scored for row in rows[i]]
    tensors = Tensors.of(adapters, shop.backbone.device)
    scores = iter(score_rows(shop.backbone, tensors, items, progress=progress))
    written = [i for i in range(len(tests)) if i not in scored]
    asked = [Prompted(example.text, i) for i in written for example in tests[i][1]]
    texts = iter(generate(shop.backbone, adapters, asked, ANSWER_TOKENS, progress))
    found = []
    for i, (name, examples) in enumerate(tests):
        task = shop.tasks[name]
        if i in written:
            found.append(measure(task, examples, [next(texts).strip() for _ in examples]))
        else:
            found.append(of_scores(task, examples, rows[i], [next(scores) for _ in examples]))
    return found


def of_scores(
    task: Task, examples: Sequence[Example], rows: Sequence[Row], scores: Sequence[Sequence[float]]
) -> dict[str, float]:
    """The metrics of scored rows, and accuracy, macro-F1 and loss, which every scored task has."""
    return {**summarise(scores, rows), **measure(task, examples, predictions(scores))}
