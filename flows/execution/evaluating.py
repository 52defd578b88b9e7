"""Evaluate adapters on named rows: metrics, and the answer to each row."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dept.baselines.answering import seers_of
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.adapters import UnusableError, find_answering
from flows.execution.as_trained import as_today, as_trained
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.measure import measured
from flows.execution.progress import bar
from flows.execution.record import close, fail
from flows.execution.rows import splits_of
from infra.errors import InputError
from registry.ledger import Claim
from tasks.formatting import Example


def evaluate_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    """Let each adapter answer its rows; `test` of the outcome holds the metrics, `extra["rows"]` the answers.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: an adapter is damaged; its trial is pending again.
        InputError: a store that does not answer.
    """
    if not claims:
        return
    with bar(f"Evaluating {len(claims)} adapters", len(claims)) as shown:
        for claim in claims:
            _evaluate(context, lease, claim)
            shown.advance(1)


def _evaluate(context: RunContext, lease: Lease, claim: Claim) -> None:
    spec, began = claim.spec, time.monotonic()
    lease.progress()
    try:
        (adapter,) = (find_answering(context, sha256) for sha256 in spec.needed)
    except UnusableError as error:
        fail(context, lease, claim, str(error))
        return
    try:
        rows = _rows(context, spec)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    about = adapter.metadata | {"picture": bool(seers_of(adapter))}
    asked, rows = as_trained(context, spec.task, about, rows)
    try:
        found = measured(asked, adapter, spec.task, rows, lease.progress)
    except InputError as error:  # a picture that is gone
        fail(context, lease, claim, str(error))
        return
    answers = as_today(context.tasks[spec.task], asked.tasks[spec.task], found.answers)
    outcome = TrialOutcome(spec, "", "", 0, 0, {}, test=found.metrics, cut_rows=found.cut)
    outcome.seconds = time.monotonic() - began
    outcome.extra = {"metric": context.tasks[spec.task].metrics[0], "rows": answers}
    close(context, lease, [(claim, outcome)])


def _rows(context: RunContext, spec: TrialSpec) -> Sequence[Example]:
    splits = splits_of(context, spec, spec.task)
    parts = (splits.train, splits.validation, splits.test, splits.judge)
    by_id = {row.id: row for part in parts for row in part}
    missing = [row for row in spec.row_ids if row not in by_id]
    if missing:
        raise InputError(f"task {spec.task}: {len(missing)} rows of the evaluation are not there, such as {missing[0]}")
    return [by_id[row] for row in spec.row_ids]
