"""The head that an adapter starts with: a probe of its own pass, so that step 0 of a headed trial is that probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.head import Head
from dept.adapters.initialise import with_head
from dept.baselines.probe import train_head
from dept.batches.tokenise import Row
from dept.config import TrainConfig
from dept.trial import TrialSpec
from flows.execution.context import RunContext

Heads = dict[str, Head]


def headed(
    context: RunContext,
    spec: TrialSpec,
    start: Adapter,
    rows: Sequence[Row],
    validation: Sequence[Row],
    known: Heads,
    progress: Callable[[int], None] | None = None,
) -> Adapter:
    """A trial's start with the head that its adapter is to have; as it is where there is to be none.

    Args:
        rows, validation: what the head is fitted on, and what chooses C; see `dept.baselines.probe.train_head`.
        known: heads by start and rows, for trials that differ in their training alone. Each head is computed by itself,
            so that it has the same bits in whatever group its trial is met again.
        progress: called with the tokens of each micro-batch that is read.
    """
    if not spec.adapter.reads or not rows:
        return start

    def read(part: Sequence[Row]) -> Tensor:
        return context.backbone.features([(0, row) for row in part], spec.adapter.layers, [start], progress)

    key = spec.model_copy(update={"training": TrainConfig(), "role": "target", "test_rows": 0}).fingerprint
    if key not in known:
        known[key] = train_head(read(rows), rows, read(validation), validation)
    return with_head(start, known[key], spec.adapter)
