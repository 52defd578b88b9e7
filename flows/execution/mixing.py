"""Learn mixtures of source adapters on the shots of draws; each is an adapter of its own, kept as soon as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_mixture
from dept.trial import TrialOutcome
from flows.execution.adapters import UnusableError
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.progress import bar
from flows.execution.record import close, fail, keep, manifest
from flows.execution.rows import examples_of, rows_of
from flows.execution.starts import sources_of
from infra.errors import InputError
from registry.ledger import Claim


def mix_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    """Learn the weights of each mixture, keep and close it, and go on to the next.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: a source adapter is damaged; its trial is pending again.
        InputError: a full disk, or a store that does not answer.
    """
    for claim in claims:
        _mix(context, lease, claim)


def _mix(context: RunContext, lease: Lease, claim: Claim) -> None:
    steps = claim.spec.training.steps
    try:
        adapters = sources_of(context, claim.spec)
    except UnusableError as error:
        fail(context, lease, claim, str(error))
        return
    try:
        examples = examples_of(context, claim.spec)
        shots = rows_of(context, examples[0], claim.spec.adapter)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    rows = [row.only_gold() for row in shots]
    began = time.monotonic()
    with bar(f"Mixing sources for {claim.spec.label}", steps * sum(row.length for row in rows), "tokens") as shown:

        def told(tokens: int) -> None:
            shown.advance(tokens)
            lease.progress()

        (weights,) = context.backbone.learn_weights(adapters, {claim.fingerprint: rows}, steps, told).values()
    told_of = manifest(context, claim.spec, *examples)
    _keep(context, lease, claim, from_mixture(adapters, weights), weights, time.monotonic() - began, told_of)


def _keep(
    context: RunContext,
    lease: Lease,
    claim: Claim,
    mixture: Adapter,
    weights: list[float],
    seconds: float,
    told: dict[str, Any],
) -> None:
    lease.progress()
    outcome = TrialOutcome(
        claim.spec, "", "", claim.spec.training.steps, claim.spec.training.steps, {}, seconds=seconds
    )
    outcome.extra = {"weights": weights}
    if keep(context, lease, claim, outcome, lambda folder: mixture.save(folder, **told)):
        close(context, lease, [(claim, outcome)])
