"""Test trained adapters on rows that no trial has seen, and close their trials."""

from __future__ import annotations

from collections.abc import Sequence

from dept.adapters.adapter import Adapter
from dept.config import AdapterConfig
from dept.trial import TrialOutcome
from flows.execution.adapters import load_adapter
from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.lease import Lease
from flows.execution.measure import measured
from flows.execution.progress import bar
from flows.execution.record import close, fail
from flows.execution.rows import splits_of
from infra.errors import InputError
from registry.ledger import Claim
from tasks.draws import subset
from tasks.formatting import Example

TEST_GROUP = 4  # adapters tested in one mixed batch; a kill loses at most this many tests, never a training
Member = tuple[Claim, TrialOutcome, Adapter, Sequence[Example]]


def test_claims(context: RunContext, lease: Lease, trained: Sequence[tuple[Claim, TrialOutcome]]) -> None:
    """Test what is to be tested, a few adapters of one shape in a batch; a search trial is only closed.

    Raises:
        LeaseLostError: another worker holds some of them.
        InputError: a store that does not answer.
    """
    untested = [(claim, outcome) for claim, outcome in trained if not outcome.spec.test_rows]
    if untested:
        close(context, lease, untested)
    shapes: dict[AdapterConfig, list[Member]] = {}
    for claim, outcome in trained:
        if outcome.spec.test_rows:
            lease.progress()
            member = _member(context, lease, claim, outcome)
            if member is not None:
                shapes.setdefault(member[2].config, []).append(member)
    if not shapes:
        return
    count = sum(map(len, shapes.values()))
    with bar(f"Testing {count} adapters", sum(len(m[3]) for part in shapes.values() for m in part)) as shown:
        for members in shapes.values():
            for start in range(0, len(members), TEST_GROUP):
                group = members[start : start + TEST_GROUP]
                wanted = [(outcome.spec.task, rows) for _, outcome, _, rows in group]
                found = measured(context, [adapter for _, _, adapter, _ in group], wanted, lease.progress)
                for (_, outcome, _, _), reached in zip(group, found, strict=True):
                    outcome.test = reached.metrics
                    outcome.cut_rows += reached.cut
                close(context, lease, [(claim, outcome) for claim, outcome, _, _ in group])
                shown.advance(sum(len(rows) for *_, rows in group))


def _member(context: RunContext, lease: Lease, claim: Claim, outcome: TrialOutcome) -> Member | None:
    """A trial's adapter and test rows; one whose adapter is lost is made again, one whose rows are gone fails."""
    spec = outcome.spec
    try:
        adapter = load_adapter(context, outcome)
    except LostError:
        lease.closed(claim.fingerprint)
        return None
    try:
        return claim, outcome, adapter, subset(splits_of(context, spec, spec.task).test, spec.test_rows, 0)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return None
