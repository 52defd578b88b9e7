"""Trials that wait: an adapter that they start from was lost, and is being made again. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dept.trial import TrialSpec
from flows.execution.context import RunContext
from registry.ledger.schema import TrialRow

_BEING_MADE = ("pending", "running")


def waiting(context: RunContext, specs: Iterable[TrialSpec]) -> set[str]:
    """Fingerprints of those whose adapters are being made again, by whomever.

    Where nobody makes them any more a trial does not wait: it is to be failed with the reason.
    """
    needed = {spec.fingerprint: set(spec.needed) for spec in specs}
    gone = _gone(context, set().union(*needed.values()))
    if not gone:
        return set()
    makers = [set(row.trial_spec.needed) for row in _makers(context) if row.unreadable is None]
    unmade = _gone(context, set().union(*makers))
    if not any(unmade.isdisjoint(theirs) for theirs in makers):
        return set()
    return {fingerprint for fingerprint, mine in needed.items() if not gone.isdisjoint(mine)}


def _gone(context: RunContext, wanted: Iterable[str]) -> set[str]:
    return {sha256 for sha256 in wanted if context.ledger.by_sha256(sha256) is None}


def _makers(context: RunContext) -> Iterator[TrialRow]:
    """Open trials that may leave what is gone: healed ones of the run, its sources and mixtures, and what others do."""
    ledger, run_id = context.ledger, context.run_id
    for status in _BEING_MADE:
        yield from ledger.find(run_id=run_id, status=status, noted=True, outcomes=False)
        yield from ledger.find(run_id=run_id, status=status, role="source", outcomes=False)
        yield from ledger.find(run_id=run_id, status=status, kind="mixture", outcomes=False)
    yield from (row for row, good in ledger.held() if good and row.note and row.status in _BEING_MADE)
