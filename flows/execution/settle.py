"""Bring the trials of a stage to their end: add them, see that workers run, wait for the ledger. No torch here."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from flows.execution.context import RunContext
from flows.execution.heal import look
from flows.execution.progress import say
from infra import devices

POLL_SECONDS = 1.0
SHORT = 8  # digits of a fingerprint that tell trials of one label apart
AGAIN = "it failed before, and is left alone: `dept trials retry` runs it again"
Workers = Callable[[RunContext], int]  # does what it can of a run now, or sees that others do


@dataclass
class Settled:
    """How trials ended.

    Attributes:
        outcomes: of finished trials, each with the spec of this run, in the order in which they were asked for.
        failed: reasons, by fingerprint. labels: theirs; a trial may have several, and several trials one.
        trained: fingerprints of those that this run's own worker did; where that is not this process, its workers.
        others: of those that other workers did meanwhile, for this run or another. The rest came from the ledger.
    """

    outcomes: list[TrialOutcome] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)

    @property
    def by_fingerprint(self) -> dict[str, TrialOutcome]:
        """Finished trials."""
        return {outcome.spec.fingerprint: outcome for outcome in self.outcomes}

    @property
    def told(self) -> dict[str, str]:
        """Why trials failed, for people: by label, with the fingerprint's beginning where several share one."""
        shared = Counter(label for labels in self.labels.values() for label in labels)
        return {
            label if shared[label] == 1 else f"{label} [{key[:SHORT]}]": reason
            for key, reason in self.failed.items()
            for label in self.labels[key]
        }


def work_here(context: RunContext) -> int:
    """Be a worker oneself, in this process: how `dept run` works on one machine, with a device of its own.

    Raises:
        InputError: see `flows.execution.work.work` and `infra.devices.hold`.
    """
    hold_device(context, cuda_only=True)  # two runs on one processor are slow; on one GPU they do not fit
    from flows.execution.work import work  # torch: a controller with workers elsewhere needs none

    return work(context)


def hold_device(context: RunContext, *, cuda_only: bool = False, wait: bool = True) -> None:
    """Let this process hold the device that the run asks for, or the devices of its ranks; waits until they are free.

    Args:
        cuda_only: where the machine has none, or the run asks for none, nothing is held.
        wait: False: refuse at once where none is free.

    Raises:
        InputError: see `infra.devices.hold`.
    """
    kind, _, number = (context.device or "").partition(":")
    cpu = kind in ("cpu", "mps")
    if cpu and cuda_only:
        return
    only, ranks = number if devices.mine() is None else "", max(1, context.engine.ranks)
    held = devices.hold(
        ranks, only=only, cpu=cpu, cuda_only=cuda_only, wait=wait, check=context.stopping.check, say=say
    )
    if held is not None and held.cuda and number:
        context.device = kind  # of what it holds there is one, and it is called cuda:0


def settle(context: RunContext, stage: str, specs: Sequence[TrialSpec], workers: Workers = work_here) -> Settled:
    """Add trials to the run and wait until each is finished or failed, whoever works on them.

    A trial whose adapter is missing or damaged is made again; one that failed in an earlier run is left alone.

    Raises:
        LostError: an adapter that a trial starts from was damaged meanwhile; its own trial is pending again.
        InputError: a full disk, or a store that does not answer.
        StoppedError: the run was cancelled or suspended meanwhile.
    """
    if not specs:
        return Settled()
    fingerprints = [spec.fingerprint for spec in specs]
    context.ledger.add(specs, context.run_id, stage)
    known = context.ledger.outcomes(fingerprints)
    lost = look(context, known.values())
    before = known.keys() - set(lost) | _trained(context, stage)
    old = _failed(context, stage, before_run=True)
    while context.ledger.left(context.run_id, stage):
        context.stopping.check()
        if not workers(context):
            time.sleep(POLL_SECONDS)  # others work on them
    found = context.ledger.outcomes(fingerprints)
    reasons, labels = _failed(context, stage), dict[str, list[str]]()
    for label, key in dict.fromkeys((spec.label, key) for spec, key in zip(specs, fingerprints, strict=True)):
        if key in reasons:
            labels.setdefault(key, []).append(label)
    failed = {key: f"{reasons[key]} ({AGAIN})" if key in old else reasons[key] for key in labels}
    told = context.ledger.provenance(context.run_id, stage)
    ours = {key for key in found if told.get(key, {}).get("run") == context.run_id}
    own = {key for key in ours if workers is not work_here or _by_this_process(told[key])}
    settled = Settled(
        [replace(found[key], spec=spec) for spec, key in zip(specs, fingerprints, strict=True) if key in found],
        failed,
        labels,
        own,
        (ours | (found.keys() - before)) - own,
    )
    for key in failed:
        if key in old:
            say(f"{', '.join(labels[key])}: {AGAIN}.")
    return settled


def _by_this_process(provenance: Mapping[str, Any]) -> bool:
    return (provenance.get("host"), provenance.get("pid")) == (socket.gethostname(), os.getpid())


def _failed(context: RunContext, stage: str, before_run: bool = False) -> dict[str, str]:
    """Why trials of a stage failed, by fingerprint; `before_run`: only those that had failed when the run began."""
    rows = context.ledger.find(run_id=context.run_id, stage=stage, status="failed", outcomes=False)
    run = context.ledger.run(context.run_id) if before_run else None
    return {row.fingerprint: row.error or "" for row in rows if run is None or row.updated_at < run.started_at}


def _trained(context: RunContext, stage: str) -> set[str]:
    rows = context.ledger.find(run_id=context.run_id, stage=stage, status="trained", outcomes=False)
    return {row.fingerprint for row in rows}
