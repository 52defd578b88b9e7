"""What a worker does: claim trials that share a backbone, train, test, store and record them, claim again.

A trial is finished when its files are durable in the store, its MLflow run is closed and its ledger row says so, in
that order. No Prefect here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from dept.engine.checkpoint import tidy
from dept.trial import STACKED
from flows.execution.baselines import baseline_claims
from flows.execution.context import RunContext
from flows.execution.ensembling import ensemble_claims
from flows.execution.evaluating import evaluate_claims
from flows.execution.heal import LostError
from flows.execution.lease import Lease, LeaseLostError
from flows.execution.mixing import mix_claims
from flows.execution.progress import say, stack_name
from flows.execution.record import fail
from flows.execution.searching import search_claims
from flows.execution.stopping import RunEndedError
from flows.execution.testing import test_claims
from flows.execution.training import train_claims
from flows.execution.waiting import waiting
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.ledger import Claim
from registry.ledger.rows import backbone_of, group_of
from registry.ledger.workers import Lot

GROUP = 64  # trials claimed at once, as many as a stack takes
MOST_WAITING = 10_000  # that a statement can name


def work(context: RunContext) -> int:
    """Do all trials of the run that can be claimed; returns how many groups of trials were worked on.

    What the ledger holds as trained is only tested and logged. A worker that was silent for longer than its lease
    drops the trials that another holds now, and goes on.

    Raises:
        LostError: an adapter that trials start from is damaged; its own trial is pending again.
        InputError: a full disk, or a store that does not answer; nothing that was trained is lost.
    """
    groups, loaded = 0, ""
    while claims := _claimed(context, loaded):
        loaded = group_of(claims[0].spec)
        lease = Lease(context.ledger, claims, context.lease_seconds, context.stopping)
        try:
            ready = _ready(context, claims)
            lease.release(claim for claim in claims if claim.fingerprint in context.waiting)
            if ready:
                groups += 1
                context.shown(stack_name(ready), partial(_do, context, lease, ready))
        except LeaseLostError as error:
            say(f"{error}: this worker was silent for more than {lease.seconds:g} s. It goes on with the rest.")
            context.close(clean=False)  # ranks were stopped in the middle of a job; new ones start with the next
        except BaseException as error:
            if not isinstance(error, (LostError, RunEndedError)):  # the worker goes on with other runs
                context.hurry()
            with contextlib.suppress(InputError):  # the first error is the one to tell
                lease.release()
            raise
        lease.release()
    if groups:
        tidy(home() / "checkpoints", lambda key: _is_open(context, key))
    return groups


def _claimed(context: RunContext, loaded: str) -> list[Claim]:
    """This worker's share of what is free: what fits the loaded backbone first, so many that all workers end together.

    Of what is done one by one it is little: who holds much of that has trials to spare while others have none.
    """
    without = _waiting(context)
    lots = context.ledger.lots(context.run_id, without)
    if not lots:
        return []
    lot = min(lots, key=lambda one: (one.group != loaded, backbone_of(one.group) != backbone_of(loaded)))
    return context.ledger.claim(
        process_id(),
        share(lot, len(context.ledger.workers(context.run_id) | {process_id()})),
        run_id=context.run_id,
        lease_seconds=context.lease_seconds,
        prefer=lot.group,
        without=without,
    )


def share(lot: Lot, workers: int) -> int:
    """Trials that one of so many workers claims."""
    pace = lot.group.rpartition(":")[2]
    if pace == "search" or (pace == "single" and workers > 1):
        return 1
    return min(GROUP, -(-lot.open // workers))


def _is_open(context: RunContext, fingerprint: str) -> bool:
    # One that this ledger does not know may be of another ledger in the same home: its checkpoint stays for a month.
    row = context.ledger.get(fingerprint)
    return row is None or row.status in ("pending", "running")


def _ready(context: RunContext, claims: Sequence[Claim]) -> list[Claim]:
    """Claims without those whose start is being made again; this process claims them when it is there."""
    wait = waiting(context, [claim.spec for claim in claims if claim.outcome is None])
    context.waiting.update({claim.fingerprint: claim.spec for claim in claims if claim.fingerprint in wait})
    return [claim for claim in claims if claim.fingerprint not in wait]


def _waiting(context: RunContext) -> list[str]:
    """Those that still wait. To claim them at each look would only raise their attempts and hide those behind them."""
    wait = waiting(context, context.waiting.values())
    for fingerprint in context.waiting.keys() - wait:
        del context.waiting[fingerprint]
    return list(context.waiting)[:MOST_WAITING]


def _of_today(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> list[Claim]:
    """Claims without those that were planned while the backbone was computed otherwise: they would be other trials."""
    today = []
    for claim in claims:
        if claim.spec.computed == context.computed:
            today.append(claim)
            continue
        then = claim.spec.computed or "its first way"
        fail(
            context,
            lease,
            claim,
            f"it was planned while backbone {context.backbone_name} was computed otherwise ({then}; today: "
            f"{context.computed or 'its first way'}), so it cannot be made again. Remedy: `dept run` of its plan",
        )
    return today


def _do(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    wanted = claims[0].spec  # all have its backbone and number type
    context = replace(context, dtype=wanted.dtype or context.dtype)
    found = context.backbone.weights_id  # loaded before anything else: where it cannot be, no trial is to blame
    if found != wanted.backbone_id:
        raise InputError(
            f"backbone {context.backbone_name}: its weights here ({found[:12]}) are not those that the trials ask for "
            f"({wanted.backbone_id[:12]}). Remedy: the same files on every machine"
        )
    lease.renew()  # that may have taken long
    trained, running = [], []
    for claim in _of_today(context, lease, claims):
        outcome = claim.outcome
        lost = outcome is not None and claim.spec.method not in STACKED  # a baseline's weights died with its process
        if outcome is None or lost:
            running.append(claim)
        else:
            trained.append((claim, outcome))
    stacked = [c for c in running if c.spec.kind in ("train", "probe") and c.spec.method in STACKED]
    trained += train_claims(context, lease, stacked)
    trained += ensemble_claims(context, lease, [c for c in running if c.spec.kind == "ensemble"])
    test_claims(context, lease, trained)
    search_claims(context, lease, [c for c in running if c.spec.kind == "search"])
    mix_claims(context, lease, [c for c in running if c.spec.kind == "mixture"])
    evaluate_claims(context, lease, [c for c in running if c.spec.kind == "evaluate"])
    baseline_claims(context, lease, [c for c in running if c.spec.kind == "train" and c.spec.method not in STACKED])
