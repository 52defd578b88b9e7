"""Answers of adapters on rows, and the task's own metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dept.adapters.adapter import CONTINUES, Adapter
from dept.adapters.stack import shape_of, together
from dept.baselines.answering import Answering, members_of, weights_of
from dept.baselines.regression import Regression
from dept.baselines.single import Single
from dept.batches.tokenise import Row, encode_open
from dept.engine.evaluate import predictions, summarise
from dept.readout import mean_answers
from flows.execution.context import RunContext
from flows.execution.reading import inputs_of, rows_to_read
from flows.execution.rows import cut_of, of_task, room_of, rows_of, shown
from infra.errors import InputError
from tasks.formatting import Example
from tasks.metrics import measure
from tasks.spec import Task


@dataclass(frozen=True)
class Measured:
    """What an adapter reached on rows.

    Attributes:
        metrics: percent, loss in nats. answers: of each row, the class index (INVALID where a score is not finite) or
            the text. cut: rows whose text was cut. alone: metrics of each of several adapters by itself. adapters: of
            these together, where linear baselines answer beside them.
    """

    metrics: dict[str, float]
    answers: list[int] | list[str]
    cut: int
    alone: list[dict[str, float]] = field(default_factory=list)
    adapters: dict[str, float] = field(default_factory=dict)


def measured(
    context: RunContext,
    answering: Answering,
    name: str,
    examples: Sequence[Example],
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """What an adapter, a linear baseline, or several together reach on rows of a task.

    Args:
        name: of the task.
        progress: called with the tokens of each micro-batch.

    Raises:
        InputError: several together on a task whose answers are written.
    """
    task, members = context.tasks[name], members_of(answering)
    if task.scored:
        rows, parts = answered(context, members, name, examples, progress)
        ours = [part for one, part in zip(members, parts, strict=True) if isinstance(one, Adapter)]
        alone = [of_scores(task, examples, rows, part).metrics for part in ours] if len(parts) > 1 else []
        beside = 1 < len(ours) < len(parts)
        adapters = of_scores(task, examples, rows, mean_answers(ours)).metrics if beside else {}
        found = of_scores(task, examples, rows, mean_answers(parts, weights_of(answering)))
        return replace(found, alone=alone, adapters=adapters)
    if len(members) > 1:
        raise InputError(f"task {name}: its answers are written, which several adapters cannot do together")
    (adapter,) = members
    assert isinstance(adapter, Adapter)  # linear baselines tell classes apart
    continues = bool(adapter.metadata.get(CONTINUES))
    longest = room_of(context, name, adapter.config)
    about: dict[str, Any] = cut_of(task) | {"continues": continues}
    about["pictures"] = shown(context, task, examples, adapter.config)
    texts = [example.text for example in examples]
    asked = encode_open(context.backbone.tokens, texts, adapter.config, longest, **about)
    said = context.backbone.generate([adapter], [(0, row) for row in asked], longest, progress=progress)
    answers = [text.strip() for text in said]
    return Measured(measure(task, examples, answers), answers, sum(row.cut for row in asked))


def answered(
    context: RunContext,
    members: Sequence[Single],
    name: str,
    examples: Sequence[Example],
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Row], list[list[list[float]]]]:
    """Rows of the first member, and the scores of each; adapters of one shape answer in one mixed batch."""
    asked = of_task(name, examples)
    rows, parts = [], {}
    for place, one in enumerate(members):
        if isinstance(one, Regression):
            rows.append(rows_to_read(context, one.method, asked, one.shape))
            parts[place] = one.score(inputs_of(context, one.method, asked, rows[place], progress))
        else:
            rows.append(rows_of(context, asked, one.config, bool(one.metadata.get(CONTINUES))))
    adapters = {place: one for place, one in enumerate(members) if isinstance(one, Adapter)}
    places = list(adapters)
    for same in together([shape_of(one) for one in adapters.values()]).values():
        alike = [places[index] for index in same]
        items = [(at, row) for at, place in enumerate(alike) for row in rows[place]]
        found = context.backbone.score([adapters[place] for place in alike], items, progress=progress)
        parts |= {place: found[at * len(examples) : (at + 1) * len(examples)] for at, place in enumerate(alike)}
    return rows[0], [parts[place] for place in range(len(members))]


def of_scores(
    task: Task, examples: Sequence[Example], rows: Sequence[Row], scores: Sequence[Sequence[float]]
) -> Measured:
    """The metrics of scored rows, and accuracy, macro-F1 and loss, which every scored task has."""
    chosen = predictions(scores)
    metrics = {**summarise(scores, rows), **measure(task, examples, chosen)}
    return Measured(metrics, chosen, sum(row.cut for row in rows))
