"""The flow `dept-work`: a worker, which does what the controllers of runs have added to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from prefect import flow

from flows.execution.champions import join_retraining
from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.open import open_plan
from flows.execution.progress import say
from flows.execution.settle import work_here
from flows.planning.plan import Plan, WorkerCount
from infra.errors import InputError
from infra.hidden import hidden_credentials
from infra.identity import is_gone
from infra.settings import settings
from registry.ledger import Ledger
from registry.ledger.schema import RunRow

POLL_SECONDS = 0.5
USUAL = Plan.model_fields["backbone"].default
Opener = Callable[[Mapping[str, Any]], RunContext]
OPENERS: Mapping[str, Opener] = {  # by kind of run
    "transfer": lambda body: open_plan(Plan.model_validate(body)),
    "retrain": join_retraining,
}


@flow(name="dept-work")
def dept_work(run_id: str | None = None, backbone: str | None = None, workers: WorkerCount = 1) -> int:
    """Claim trials, train, test, store and record them, until nothing is left to claim.

    Args:
        run_id: only trials of this run; empty: of every run that is under way.
        backbone: only runs of this backbone, as their plans name it; empty: of any.
        workers: how many are to work beside each other, this one counted; each takes its share.
    """
    with hidden_credentials():
        return run(run_id, backbone, workers)


def run(run_id: str | None = None, backbone: str | None = None, workers: int = 1, once: bool = False) -> int:
    """Be a worker in this process until there is nothing left to claim; returns how many groups of trials it did.

    It keeps its backbone, takes the runs of that backbone first, and lingers for $DEPT_LINGER_SECONDS while a run is
    under way: to start anew costs more. A run that cannot be worked for here is said and left to others.

    Args:
        run_id, backbone, workers: see `dept_work`.
        once: do not linger.

    Raises:
        InputError: no such run; a backbone or a store that is not in reach, for the run that was named or for all.
    """
    ledger, contexts, groups = Ledger.open(), dict[str, RunContext](), 0
    left_out: dict[str, InputError] = {}
    held, ends = "", 0.0  # the backbone that is loaded; when lingering ends (monotonic)
    try:
        while True:
            did, known = 0, _open_runs(ledger, run_id, backbone)
            for wanted in contexts.keys() - known.keys():
                _drop(contexts, wanted)
            for wanted in sorted(known, key=lambda one: known[one] != held):  # oldest first otherwise
                if wanted in left_out or not ledger.free(wanted):
                    continue
                try:
                    did += _work_for(ledger, wanted, contexts, workers)
                except InputError as error:
                    if run_id is not None:
                        raise
                    left_out[wanted] = error
                    say(f"Run {wanted[:12]} is left to others: {error}")
                    _drop(contexts, wanted)
                if did:
                    held = known[wanted]
                    break  # other runs of this backbone come next
            groups += did
            if did:
                ends = 0.0
                continue
            if left_out and not contexts:
                raise next(iter(left_out.values()))
            ends = ends or time.monotonic() + (0 if once else settings().linger_seconds)
            if time.monotonic() >= ends or not _more_may_come(ledger, run_id, backbone):
                return groups
            time.sleep(POLL_SECONDS)
    finally:
        for wanted in list(contexts):
            _drop(contexts, wanted)


def _work_for(ledger: Ledger, run_id: str, contexts: dict[str, RunContext], workers: int) -> int:
    if run_id not in contexts:
        contexts[run_id] = join(ledger, run_id)
        contexts[run_id].workers = workers
    try:
        return work_here(contexts[run_id])
    except LostError as error:
        say(f"{error}. Its trial is made again.")  # by whoever claims it next
        return 0


def _drop(contexts: dict[str, RunContext], run_id: str) -> None:
    if context := contexts.pop(run_id, None):
        context.close()


def join(ledger: Ledger, run_id: str) -> RunContext:
    """The context of a run that another process has begun.

    Raises:
        InputError: no such run, of a kind that this version does not know, or as `open_plan`.
    """
    row = _row(ledger, run_id)
    if row.kind not in OPENERS:
        raise InputError(f"work: run {run_id[:12]} is of kind {row.kind!r}, which this version does not know")
    context = OPENERS[row.kind](row.plan)
    context.run_id, context.parent_run = run_id, row.mlflow_run_id or ""
    return context


def _row(ledger: Ledger, run_id: str) -> RunRow:
    row = ledger.run(run_id)
    if row is None:
        raise InputError(f"work: no run {run_id[:32]!r}. Remedy: `dept status` names those under way")
    return row


def _open_runs(ledger: Ledger, run_id: str | None, backbone: str | None = None) -> dict[str, str]:
    """Runs to work for with their backbones, oldest first. Those whose controller was killed here are ended."""
    if run_id is not None:
        return {run_id: _backbone(_row(ledger, run_id))}
    found = {}
    for row in reversed(ledger.runs(status="running")):
        if is_gone(row.owner or ""):
            ledger.end_run(row.run_id, "killed")
            say(f"Run {row.run_id[:12]} ({row.name}): its controller is gone. Remedy: run the same plan again.")
        elif backbone in (None, _backbone(row)):
            found[row.run_id] = _backbone(row)
    return found


def _backbone(row: RunRow) -> str:
    """As the order of a run names it."""
    return str(row.plan.get("backbone", USUAL))


def _more_may_come(ledger: Ledger, run_id: str | None, backbone: str | None) -> bool:
    """Whether a controller may still add trials."""
    if run_id is None:
        return bool(_open_runs(ledger, None, backbone))
    row = ledger.run(run_id)
    return row is not None and row.status == "running" and not is_gone(row.owner or "")
