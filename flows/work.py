"""The flow `dept-work`: a worker, which does what the controllers of runs have added to the ledger."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.execution.champions import join_retraining
from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.open import open_plan
from flows.execution.progress import say
from flows.execution.settle import hold_device, work_here
from flows.execution.stopping import RunEndedError, Stopping, ended
from flows.pages import ends, shown_in, watched
from flows.planning.plan import Plan
from infra import devices
from infra.errors import InputError
from infra.flow_run import own_id, present_name
from infra.hidden import hidden_credentials
from infra.identity import is_gone, process_id
from infra.secrets import masked
from infra.settings import settings
from infra.worker_runs import DID_NOTHING
from registry.ledger import Ledger
from registry.ledger.schema import RunRow
from registry.ledger.workers import PRESENT_SECONDS
from registry.tracking.lost import knows

POLL_SECONDS = 0.5
USUAL = Plan.model_fields["backbone"].default
Opener = Callable[[Mapping[str, Any]], RunContext]
OPENERS: Mapping[str, Opener] = {  # by kind of run
    "transfer": lambda body: open_plan(Plan.model_validate(body)),
    "retrain": join_retraining,
}


@flow(name="dept-work")
def dept_work(run_id: str | None = None, backbone: str | None = None) -> State[int]:
    """Claim trials, train, test, store and record them, until nothing is left to claim.

    Args:
        run_id: only trials of this run, while it is under way; empty: of every run that is.
        backbone: only runs of this backbone, as their plans name it; empty: of any.
    """
    with ends(), hidden_credentials():
        stopping = Stopping()
        with watched(stopping, run_id):
            if run_id is not None and _row(Ledger.open(), run_id).status != "running":
                say(f"Run {run_id[:12]} is over: there is nothing to do.")
                return _done(0)
            return _done(run(run_id, backbone, stopping=stopping))


def _done(groups: int) -> State[int]:
    """As what its flow run completes: its controller reads there whether it was of use."""
    return Completed(
        message=f"did {groups} group{'s' if groups > 1 else ''} of trials" if groups else DID_NOTHING, data=groups
    )


def run(
    run_id: str | None = None,
    backbone: str | None = None,
    once: bool = False,
    stopping: Stopping | None = None,
) -> int:
    """Be a worker in this process until there is nothing left to claim; returns how many groups of trials it did.

    It holds a device of its own (`infra.devices`), keeps its backbone, takes the runs of that backbone first, and
    lingers for $DEPT_LINGER_SECONDS while a run is under way: to start anew costs more. A run that cannot be worked for
    here is said and left to others.

    Args:
        run_id: only trials of this run, whatever became of it; backbone: see `dept_work`.
        once: neither linger nor wait for a device.

    Raises:
        InputError: no such run; a backbone or a store that is not in reach, for the run that was named or for all.
        RunEndedError: the run that was named was ended meanwhile, and `stopping` is a flow run's. StoppedError: see
            `Stopping`.
    """
    worker = _Worker(run_id, backbone, stopping or Stopping(), wait=not once)
    groups, last = 0, None
    try:
        while True:
            worker.stopping.check()
            if did := worker.round():
                groups, last = groups + did, None
                continue
            last = last or time.monotonic() + (0 if once else settings().linger_seconds)
            if time.monotonic() >= last or not worker.more_may_come():
                return groups
            time.sleep(POLL_SECONDS)
    except RunEndedError as error:
        if stopping is not None:
            raise  # its flow run ends as cancelled
        say(f"{error}. Nothing of it is worked on any more.")
        return groups
    finally:
        worker.close()


class _Worker:
    """What a worker holds between its groups of trials."""

    def __init__(self, run_id: str | None, backbone: str | None, stopping: Stopping, wait: bool = True) -> None:
        self.run_id, self.backbone, self.stopping, self.wait = run_id, backbone, stopping, wait
        self.ledger = Ledger.open()
        run = own_id()
        self.name, self._attended = present_name(run) if run else process_id(), -math.inf
        self.contexts: dict[str, RunContext] = {}
        self.left_out: dict[str, InputError] = {}
        self.held = ""  # the backbone that is loaded

    def round(self) -> int:
        """Work for one run, of the loaded backbone where there is one; returns the groups done, 0 where there is none.

        Raises:
            InputError: see `run`.
        """
        self._attend()
        known = self._known()
        for gone in self.contexts.keys() - known.keys():
            self._drop(gone)
        for run_id in sorted(known, key=lambda one: known[one] != self.held):  # oldest first otherwise
            if run_id in self.left_out or not self.ledger.free(run_id):
                continue
            try:
                did = self._work_for(run_id)
            except InputError as error:
                if self.run_id is not None:
                    raise
                self.left_out[run_id] = error
                say(f"Run {run_id[:12]} is left to others: {error}")
                self._drop(run_id)
                continue
            except RunEndedError as error:
                if self.run_id is not None:
                    raise
                say(f"{error}.")
                continue
            if did:
                self.held = known[run_id]
                return did
        if self.left_out and not self.contexts:
            raise next(iter(self.left_out.values()))
        return 0

    def more_may_come(self) -> bool:
        """Whether a controller may still add trials."""
        return bool(self._known()) if self.run_id is None else _under_way(_row(self.ledger, self.run_id))

    def close(self) -> None:
        """Let go of all."""
        for run_id in list(self.contexts):
            self._drop(run_id)
        devices.release()
        with contextlib.suppress(InputError):  # the first error is the one to tell; it is forgotten by itself
            self.ledger.depart(self.name)

    def _attend(self) -> None:
        """Say now and then that this worker is there; while it holds trials that is known from them."""
        if time.monotonic() - self._attended >= PRESENT_SECONDS / 6:
            self.ledger.attend(self.name, process_id(), self.run_id)
            self._attended = time.monotonic()

    def _known(self) -> dict[str, str]:
        """Runs to work for with their backbones, oldest first. Those whose controller was killed here are ended."""
        if self.run_id is not None:
            return {self.run_id: _backbone(_row(self.ledger, self.run_id))}
        found = {}
        for row in reversed(self.ledger.runs(status="running")):
            if is_gone(row.owner or ""):
                if self.ledger.end_run(row.run_id, "killed", owner=row.owner):  # not where it was started again
                    say(f"Run {row.run_id[:12]} ({row.name}): its controller is gone. Remedy: run the same plan again.")
            elif self.backbone in (None, _backbone(row)):
                found[row.run_id] = _backbone(row)
        return found

    def _work_for(self, run_id: str) -> int:
        if run_id not in self.contexts:
            context = self.contexts[run_id] = join(self.ledger, run_id)
            context.stopping = self.stopping
            shown_in(context)
        hold_device(self.contexts[run_id], wait=self.wait)
        asked: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if _row(self.ledger, run_id).status == "running":  # an orphaned one that was named is worked for all the same
            asked = self.stopping.asking(ended(self.ledger, run_id))
        try:
            with asked, self.stopping.watching():
                return work_here(self.contexts[run_id])
        except LostError as error:
            say(f"{error}. Its trial is made again.")  # by whoever claims it next
            return 0

    def _drop(self, run_id: str) -> None:
        if context := self.contexts.pop(run_id, None):
            context.close()


def join(ledger: Ledger, run_id: str) -> RunContext:
    """The context of a run that another process has begun.

    Raises:
        InputError: no such run, of a kind that this version does not know, whose MLflow is another one, or as
            `open_plan`.
    """
    row = _row(ledger, run_id)
    if row.kind not in OPENERS:
        raise InputError(f"work: run {run_id[:12]} is of kind {row.kind!r}, which this version does not know")
    context = OPENERS[row.kind](row.plan)
    context.run_id, context.parent_run = run_id, row.mlflow_run_id or ""
    if context.parent_run and not knows(context.tracker, context.parent_run):
        raise InputError(
            f"MLflow {masked(context.tracker.uri)}: it does not hold run {context.parent_run}, below which the trials "
            f"of {row.name} are logged. Remedy: set MLFLOW_TRACKING_URI to the address that the run's controller uses"
        )
    return context


def _row(ledger: Ledger, run_id: str) -> RunRow:
    row = ledger.run(run_id)
    if row is None:
        raise InputError(f"work: no run {run_id[:32]!r}. Remedy: `dept status` names those under way")
    return row


def _under_way(row: RunRow) -> bool:
    return row.status == "running" and not is_gone(row.owner or "")


def _backbone(row: RunRow) -> str:
    """As the order of a run names it."""
    return str(row.plan.get("backbone", USUAL))
