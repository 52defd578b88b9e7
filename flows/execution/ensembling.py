"""Put adapters of one task together, so that they are kept, tested and served as one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from dept.baselines.ensemble import Ensemble
from dept.baselines.single import Single
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.adapters import UnusableError, find_single
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.measure import measured
from flows.execution.record import fail, keep, manifest
from flows.execution.rows import examples_of
from infra.errors import InputError
from registry.ledger import Claim


def ensemble_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> list[tuple[Claim, TrialOutcome]]:
    """Keep each ensemble, and return those that are to be tested; a kill loses the one in hand.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: a member is damaged; its trial is pending again.
        InputError: a full disk, or a store that does not answer.
    """
    found = ((claim, _kept(context, lease, claim)) for claim in claims)
    return [(claim, outcome) for claim, outcome in found if outcome is not None]


def _kept(context: RunContext, lease: Lease, claim: Claim) -> TrialOutcome | None:
    spec, began = claim.spec, time.monotonic()
    lease.progress()
    try:
        members = [find_single(context, sha256) for sha256 in spec.sources]
    except UnusableError as error:
        fail(context, lease, claim, str(error))
        return None
    try:
        ensemble = Ensemble(members, spec.weights or None)
        shots, checked = examples_of(context, spec)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return None
    outcome = TrialOutcome(spec, "", "", 0, 0, {})
    outcome.extra = {"metric": context.tasks[spec.task].metrics[0], "members": len(members)}
    searched = context.ledger.outcomes([spec.searched]) if spec.searched else {}
    if searched:  # the members' folds have told what they reach together
        outcome.validation = next(iter(searched.values())).validation
    elif spec.init == "ensemble" and not spec.refit:  # one draw, whose validation rows no member has learned from
        rows = [example for _, example in checked]
        outcome.validation = measured(context, ensemble, spec.task, rows, lease.progress).metrics if rows else {}
    else:
        outcome.validation = _mean_member(context, spec)
    outcome.seconds = time.monotonic() - began
    told = manifest(context, spec, shots, checked) | {"drawn": _drawn(members)}
    return outcome if keep(context, lease, claim, outcome, lambda folder: ensemble.save(folder, **told)) else None


def _mean_member(context: RunContext, spec: TrialSpec) -> dict[str, float]:
    """Of members that may have learned from each other's validation rows (several draws, refits): their own means.

    The loss of the ensemble is at most that, see `dept.readout.mean_answers`.
    """
    rows = [context.ledger.by_sha256(sha256) for sha256 in spec.sources]
    known = [context.ledger.outcome(row.fingerprint).validation for row in rows if row is not None]
    names = set.intersection(*map(set, known)) if known else set()
    return {name: statistics.fmean(one[name] for one in known) for name in sorted(names)}


def _drawn(members: Sequence[Single]) -> dict[str, list[str]]:
    """Ids of the rows that any of them has seen."""
    found: list[dict[str, Any]] = [member.metadata.get("drawn") or {} for member in members]
    return {part: sorted({row for one in found for row in one.get(part, ())}) for part in ("shots", "validation")}
