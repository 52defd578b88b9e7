"""The trial that lets an adapter answer rows once more, as its backbone is computed today."""

from __future__ import annotations

from collections.abc import Iterable

from dept.config import TrainConfig
from dept.trial import Role, TrialOutcome, TrialSpec
from registry.ledger.schema import TrialRow
from registry.promotion.rows import Stores
from tasks.formatting import Example


def otherwise(row: TrialRow | None, today: TrialSpec) -> str:
    """What is to be said where a trial was made while its backbone was computed otherwise; "" else.

    Args:
        row: of the ledger; None: not known, and nothing is said. today: a trial of how it is computed now.
    """
    then = today.computed if row is None else row.spec.get("computed")
    if then == today.computed:
        return ""
    how = f"without right {today.computed}" if then is None else f"otherwise ({then})"
    return f"the champion was trained while the backbone was computed {how}; it was judged as it answers today"


def evaluation(
    stores: Stores, outcome: TrialOutcome, rows: Iterable[Example], role: Role, computed: str | None = None
) -> TrialSpec:
    """The trial that lets an adapter answer rows, with the number type that it was trained on.

    Args:
        computed: how its backbone is computed today, whatever it was when the adapter was trained; see `TrialSpec`.
    """
    spec, ids = outcome.spec, tuple(row.id for row in rows)
    task = stores.tasks[spec.task]
    return TrialSpec(
        kind="evaluate",
        backbone=spec.backbone,
        backbone_id=spec.backbone_id,
        dtype=spec.dtype,
        computed=computed,
        chat=spec.chat,
        task=spec.task,
        task_version=task.version,
        data_hash=stores.splits[spec.task].data_hash,
        role=role,
        method=spec.method,
        init=spec.init,
        start="source",
        source_task=spec.task,
        source_sha256=outcome.adapter_sha256,
        prompt_text="",
        adapter=spec.adapter,
        training=TrainConfig(steps=0),
        test_rows=len(ids),
        row_ids=ids,
    )
