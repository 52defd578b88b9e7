"""The flow `dept-work`: a worker, which does what the controllers of runs have added to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefect import flow

from flows.execution.champions import join_retraining
from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.open import open_plan
from flows.execution.progress import say
from flows.execution.settle import work_here
from flows.planning.plan import Plan
from infra.errors import InputError
from infra.hidden import hidden_credentials
from infra.identity import is_gone
from registry.ledger import Ledger

Opener = Callable[[Mapping[str, Any]], RunContext]
OPENERS: Mapping[str, Opener] = {  # by kind of run
    "transfer": lambda body: open_plan(Plan.model_validate(body)),
    "retrain": join_retraining,
}


@flow(name="dept-work")
def dept_work(run_id: str | None = None) -> int:
    """Claim trials, train, test, store and record them, until nothing is left to claim.

    Args:
        run_id: only trials of this run; empty: of every run that is under way.
    """
    with hidden_credentials():
        return run(run_id)


def run(run_id: str | None = None) -> int:
    """Be a worker in this process until there is nothing left to claim; returns how many groups of trials it did.

    A run that cannot be worked for here is said and left to others.

    Raises:
        InputError: no such run; a backbone or a store that is not in reach, for the run that was named or for all.
    """
    ledger, contexts, groups = Ledger.open(), dict[str, RunContext](), 0
    left_out: dict[str, InputError] = {}
    try:
        while True:
            did = 0
            for wanted in _open_runs(ledger, run_id):
                if wanted in left_out or not ledger.left(wanted):
                    continue
                try:
                    did += _work_for(ledger, wanted, contexts)
                except InputError as error:
                    if run_id is not None:
                        raise
                    left_out[wanted] = error
                    say(f"Run {wanted[:12]} is left to others: {error}")
                    _drop(contexts, wanted)
            groups += did
            if did:
                continue
            if left_out and not contexts:
                raise next(iter(left_out.values()))
            return groups
    finally:
        for wanted in list(contexts):
            _drop(contexts, wanted)


def _work_for(ledger: Ledger, run_id: str, contexts: dict[str, RunContext]) -> int:
    if run_id not in contexts:
        contexts[run_id] = join(ledger, run_id)
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
    row = ledger.run(run_id)
    if row is None:
        raise InputError(f"work: no run {run_id[:32]!r}. Remedy: `dept status` names those under way")
    if row.kind not in OPENERS:
        raise InputError(f"work: run {run_id[:12]} is of kind {row.kind!r}, which this version does not know")
    context = OPENERS[row.kind](row.plan)
    context.run_id, context.parent_run = run_id, row.mlflow_run_id or ""
    return context


def _open_runs(ledger: Ledger, run_id: str | None) -> list[str]:
    """Runs to work for, oldest first. Those whose controller was killed on this machine are ended."""
    if run_id is not None:
        return [run_id]
    found = []
    for row in reversed(ledger.runs(status="running")):
        if is_gone(row.owner or ""):
            ledger.end_run(row.run_id, "killed")
            say(f"Run {row.run_id[:12]} ({row.name}): its controller is gone. Remedy: run the same plan again.")
        else:
            found.append(row.run_id)
    return found
