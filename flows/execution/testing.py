"""Test trained adapters on rows that no trial has seen, and close their trials."""

from __future__ import annotations

from collections.abc import Sequence

from dept.baselines.answering import Answering
from dept.trial import ADAPTERS, OWN_LOSS, TrialOutcome, TrialSpec
from flows.execution.adapters import load_adapter
from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.lease import Lease
from flows.execution.measure import measured
from flows.execution.progress import bar
from flows.execution.record import close, fail
from flows.execution.rows import examples_of, tests_of
from flows.planning.astray import unvalidated
from infra.errors import InputError
from registry.ledger import Claim
from tasks.draws import subset
from tasks.formatting import Example

Member = tuple[Answering, Sequence[Example], Sequence[Example]]  # what answers, its own rows, and test rows
MOST_OWN = 256  # rows that a refit answers of those that it has learned


def test_claims(context: RunContext, lease: Lease, trained: Sequence[tuple[Claim, TrialOutcome]]) -> None:
    """Test what is to be tested and close it, one trial after the other; a search trial is only closed.

    A refit answers the rows that it has learned as well (`flows.planning.astray`).

    Raises:
        LeaseLostError: another worker holds some of them.
        InputError: a store that does not answer.
    """
    untested = [(claim, outcome) for claim, outcome in trained if not _answers(outcome.spec)]
    if untested:
        close(context, lease, untested)
    members = []
    for claim, outcome in trained:
        if _answers(outcome.spec):
            lease.progress()
            member = _member(context, lease, claim, outcome)
            if member is not None:
                members.append((claim, outcome, *member))
    if not members:
        return
    # One at a time: the rows of one test fill a batch, and a kill loses the test in hand alone.
    with bar(f"Testing {len(members)} adapters", sum(len(own) + len(rows) for *_, own, rows in members)) as shown:
        for claim, outcome, adapter, own, rows in members:
            try:
                found = measured(context, adapter, outcome.spec.task, own, lease.progress) if own else None
                reached = measured(context, adapter, outcome.spec.task, rows, lease.progress) if rows else None
            except InputError as error:  # a picture that is gone
                fail(context, lease, claim, str(error))
                continue
            if found is not None:
                outcome.extra[OWN_LOSS] = found.metrics["loss"]
            if reached is not None:
                outcome.test = reached.metrics
                outcome.cut_rows += reached.cut
                if reached.alone:
                    outcome.extra["members_alone"] = [one["score"] for one in reached.alone]
                if reached.adapters:
                    outcome.extra[ADAPTERS] = reached.adapters["score"]
            close(context, lease, [(claim, outcome)])
            shown.advance(len(own) + len(rows))


def _answers(spec: TrialSpec) -> bool:
    return bool(spec.test_rows) or unvalidated(spec)


def own_rows(context: RunContext, spec: TrialSpec) -> Sequence[Example]:
    """Rows that a trial has learned, of many some.

    Raises:
        InputError: see `examples_of`.
    """
    return subset([example for _, example in examples_of(context, spec)[0]], MOST_OWN, spec.seed)


def _member(context: RunContext, lease: Lease, claim: Claim, outcome: TrialOutcome) -> Member | None:
    """A trial's adapter, its own rows where none validates it, and test rows.

    One whose adapter is lost is made again, one whose rows are gone fails.
    """
    spec = outcome.spec
    try:
        adapter = load_adapter(context, outcome)
    except LostError:
        lease.closed(claim.fingerprint)
        return None
    try:
        own = own_rows(context, spec) if unvalidated(spec) and context.tasks[spec.task].scored else ()
        return adapter, own, tests_of(context, spec) if spec.test_rows else ()
    except InputError as error:
        fail(context, lease, claim, str(error))
        return None
