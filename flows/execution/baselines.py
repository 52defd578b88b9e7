"""Baselines on the same rows and budget: one after the other, since they change the backbone itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dept.baselines.train import train_baseline
from dept.engine.memory import peak_memory_mib
from dept.trial import TrialSpec
from flows.execution.measure import of_scores
from flows.execution.progress import bar
from flows.execution.record import finish, manifest, outcome_of
from flows.execution.rows import examples_of, of_task, rows_of
from tasks.draws import subset

if TYPE_CHECKING:
    from flows.execution.work import Workshop


def work_baselines(shop: Workshop, specs: Sequence[TrialSpec], what: str, owner: str) -> None:
    """Train, test and record baselines. A kill loses the one that is under way, whose weights are nowhere else."""
    if not specs:
        return
    with bar(f"Baselines: {len(specs)} {what}", len(specs)) as shown:
        for spec in specs:
            _work(shop, spec, owner)
            shown.advance(1)


def _work(shop: Workshop, spec: TrialSpec, owner: str) -> None:
    assert spec.method in ("lora", "full")
    pieces = examples_of(shop, spec)
    training, validation = (rows_of(shop, part, spec.adapter) for part in pieces)
    with train_baseline(spec.method, shop.backbone, training, validation, spec.training, spec.seed) as baseline:
        if baseline.state.failure is not None:
            shop.ledger.fail(spec.fingerprint, baseline.state.failure, owner)
            return
        sha256 = baseline.save(shop.adapters / spec.fingerprint, **manifest(shop, spec, *pieces))
        outcome = outcome_of(shop, spec, (*training, *validation), baseline.state, sha256)
        outcome.peak_memory_mib, outcome.trainable = peak_memory_mib(), baseline.trainable
        shop.ledger.trained(spec.fingerprint, outcome, owner)
        shop.trained.add(spec.fingerprint)
        test = {}
        if spec.test_rows:
            examples = subset(shop.splits[spec.task].test, spec.test_rows, 0)
            rows = rows_of(shop, of_task(spec.task, examples), spec.adapter)
            outcome.cut_rows += sum(row.cut for row in rows)
            test = of_scores(shop.tasks[spec.task], examples, rows, baseline.score(rows))
        finish(shop, outcome, test, owner)
