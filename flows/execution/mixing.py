"""Learn mixtures of source adapters on the shots of draws; each mixture is an adapter of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_mixture
from dept.batches.tokenise import Row
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

MIX_GROUP = 4  # mixtures learned together; a kill loses at most these
Group = tuple[tuple[str, ...], int]  # sources and steps: mixtures of one group can be learned together


def mix_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    """Learn the weights of a few mixtures at once, keep and close them, and go on to the next.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: a source adapter is damaged; its trial is pending again.
        InputError: a full disk, or a store that does not answer.
    """
    groups: dict[Group, list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.spec.sources, claim.spec.training.steps), []).append(claim)
    for (_, steps), members in groups.items():
        for start in range(0, len(members), MIX_GROUP):
            _mix(context, lease, members[start : start + MIX_GROUP], steps)


def _mix(context: RunContext, lease: Lease, claims: Sequence[Claim], steps: int) -> None:
    rows: dict[str, list[Row]] = {}
    adapters: list[Adapter] = []
    for claim in claims:
        try:
            adapters = adapters or sources_of(context, claim.spec)
        except UnusableError as error:
            fail(context, lease, claim, str(error))
            continue
        try:
            shots = rows_of(context, examples_of(context, claim.spec)[0], claim.spec.adapter)
        except InputError as error:
            fail(context, lease, claim, str(error))
            continue
        rows[claim.fingerprint] = [row.only_gold() for row in shots]
    if not rows:
        return
    began = time.monotonic()
    with bar(
        f"Mixing sources for {len(rows)} draws", steps * sum(r.length for part in rows.values() for r in part)
    ) as b:

        def told(tokens: int) -> None:
            b.advance(tokens)
            lease.progress()

        weights = context.backbone.learn_weights(adapters, rows, steps, told)
    seconds = (time.monotonic() - began) / len(rows)
    for claim in claims:
        if claim.fingerprint in rows:
            _keep(context, lease, claim, from_mixture(adapters, weights[claim.fingerprint]), weights, seconds)


def _keep(
    context: RunContext,
    lease: Lease,
    claim: Claim,
    mixture: Adapter,
    weights: dict[str, list[float]],
    seconds: float,
) -> None:
    lease.progress()
    outcome = TrialOutcome(
        claim.spec, "", "", claim.spec.training.steps, claim.spec.training.steps, {}, seconds=seconds
    )
    outcome.extra = {"weights": weights[claim.fingerprint]}
    told = manifest(context, claim.spec, *examples_of(context, claim.spec))
    if keep(context, lease, claim, outcome, lambda folder: mixture.save(folder, **told)):
        close(context, lease, [(claim, outcome)])
