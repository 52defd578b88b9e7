"""Test trained adapters on rows that no trial has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dept.adapters.adapter import Adapter
from dept.config import AdapterConfig
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.measure import measured
from flows.execution.progress import bar
from flows.execution.record import finish, load_adapter
from flows.execution.rows import of_task, rows_of
from tasks.draws import subset

if TYPE_CHECKING:
    from flows.execution.work import Workshop

TEST_GROUP = 4  # adapters tested in one mixed batch; a kill loses at most this many tests, never a training


def test(shop: Workshop, specs: Sequence[TrialSpec], what: str, owner: str) -> None:
    """Test what is to be tested, a few adapters of one shape in a batch; a search trial is only closed."""
    outcomes = [shop.ledger.outcome(spec.fingerprint) for spec in specs]
    for outcome in outcomes:
        if not outcome.spec.test_rows:
            finish(shop, outcome, {}, owner)
    shapes: dict[AdapterConfig, list[tuple[TrialOutcome, Adapter]]] = {}
    for outcome in outcomes:
        if outcome.spec.test_rows:
            adapter = load_adapter(shop.backbone, outcome)
            shapes.setdefault(adapter.config, []).append((outcome, adapter))
    if not shapes:
        return
    tests = {
        spec.fingerprint: subset(shop.splits[spec.task].test, spec.test_rows, 0) for spec in specs if spec.test_rows
    }
    rows = {
        spec.fingerprint: rows_of(shop, of_task(spec.task, tests[spec.fingerprint]), spec.adapter)
        for spec in specs
        if spec.test_rows
    }
    with bar(f"Testing {len(tests)} {what}", sum(row.length for part in rows.values() for row in part)) as shown:
        for members in shapes.values():
            for start in range(0, len(members), TEST_GROUP):
                group = members[start : start + TEST_GROUP]
                wanted = [(outcome.spec.task, tests[outcome.spec.fingerprint]) for outcome, _ in group]
                found = measured(shop, [adapter for _, adapter in group], wanted, shown.advance)
                for (outcome, _), test in zip(group, found, strict=True):
                    outcome.cut_rows += sum(row.cut for row in rows[outcome.spec.fingerprint])
                    finish(shop, outcome, test, owner)
