"""Workers of a controller that runs in a pool: flow runs of `dept-work` in another pool, kept going. No torch here.

A controller never waits in the pool that its workers need, and starts none that would have nothing to do.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flows.execution.context import RunContext
from flows.execution.settle import Workers, work_here
from infra import worker_runs
from infra.errors import InputError
from infra.flow_run import never_in_the_way, present_name
from infra.worker_runs import DID_NOTHING, Place, WorkerRun

LOOK_SECONDS = 2.0  # between two looks at the flow runs
FAULTS = 3  # times that workers end by an error or a crash, one after the other without a trial done, that are borne
PAUSE = 10.0  # seconds before a worker that failed is replaced, and longer after each more
LONGEST_PAUSE = 120.0  # before one that found nothing to do is replaced
BEGIN_SECONDS = 600.0  # that a machine may take to begin a worker which it was given; then it counts as dead


@contextlib.contextmanager
def workers_for(wanted: int | None) -> Iterator[Workers]:
    """Who works for the controller of this process while the block runs.

    A flow run of a deployment gets flow runs of `dept-work`; by hand (`dept run`) the process works itself. So does
    a flow run that holds a place in the very pool of its workers: to wait there could be to wait for ever.

    Args:
        wanted: workers at a time; None: the limit of their pool, or 1 where it has none.

    Raises:
        InputError: the deployment of the workers is missing.
    """
    from prefect import runtime

    if not runtime.deployment.id:
        yield work_here
        return
    try:
        mine, theirs = worker_runs.own_pool(), worker_runs.place()
    except ConnectionError as error:
        raise InputError(f"Prefect: {error}. Remedy: start its server, or check PREFECT_API_URL") from error
    if mine == theirs.pool:
        _log(
            f"This run has a place in the pool {mine} of its workers, so it works itself, as one process. Remedy: "
            "deploy it to the pool control",
            logging.WARNING,
        )
        yield work_here
        return
    fan_out = FanOut(wanted)
    try:
        yield fan_out
    finally:
        fan_out.end()


class FanOut:
    """Keeps up to so many flow runs of `dept-work` going for a run of the ledger; called again and again.

    Those that an earlier process of the same run has started go on. One that crashed is replaced, one that was taken
    and never began as well; where those that replace them fail too, again and again, and nothing gets done, the
    controller ends with their reason. One that a person cancelled is not replaced; another stands in for a suspended
    one. Where those that are started find nothing that they can do, longer and longer pauses are made. Where the pool
    has no live worker of Prefect that is said, in the log and by an artifact, and waited for.

    Args:
        wanted: at a time; None: the limit of the pool, or 1 where it has none.
    """

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted = wanted
        self.runs: dict[str, WorkerRun] = {}  # those that have not ended, by id
        self._key, self._number = secrets.token_hex(8), 0
        self._looked = self._resume = 0.0  # monotonic
        self._faults = self._cancelled = self._idle = 0
        self._adopted = False
        self._taken: dict[str, float] = {}  # when a flow run was first seen pending, or running, monotonic
        self._came: set[str] = set()  # flow runs whose process has been seen in the ledger
        self._counted: set[str] = set()  # those that were there when a fault was last counted
        self._left: int | None = None
        self._said = ""

    def __call__(self, context: RunContext) -> int:
        """Look, and start what is missing; always 0: this process itself has done nothing."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return 0
        try:
            self._look(context)
        except ConnectionError as error:
            self._say(f"Prefect does not answer ({error}); the workers that run go on, and it is asked again.")
        self._looked = time.monotonic()
        return 0

    def end(self) -> None:
        """Take back flow runs that have not begun; workers at work end by themselves, when nothing is left."""
        with contextlib.suppress(ConnectionError):
            worker_runs.withdraw(self.runs, "nothing is left to do for its run")
        self.runs = {}

    def _look(self, context: RunContext) -> None:
        self._adopt(context)
        free = context.ledger.free(context.run_id)
        self._note_ends(context, self._begun_in_time(context, worker_runs.look(self.runs)), free)
        place = worker_runs.place()
        most = self._most(place)
        there = sum(run.there for run in self.runs.values())
        # Those that have not begun, and those that hold no trial, take first what is free.
        idle = max(0, there - len(context.ledger.holders(context.run_id)))
        missing = min(most - there, free - idle)
        if time.monotonic() >= self._resume:
            for _ in range(missing):
                self._start(context)
        self._say(self._trouble(place, free, most))

    def _adopt(self, context: RunContext) -> None:
        """Know the workers of the process that was this run's controller before, which go on."""
        if self._adopted:
            return
        self.runs |= worker_runs.unfinished(context.run_id)
        self._came |= {one for one, run in self.runs.items() if run.state == "RUNNING"}
        self._adopted = True
        if self.runs:
            _log(f"{len(self.runs)} workers of this run are there from before.")

    def _begun_in_time(self, context: RunContext, now: dict[str, WorkerRun]) -> dict[str, WorkerRun]:
        """The flow runs, with those crashed that a machine took and never began: Prefect hears no more of them.

        A running one whose process never came to the ledger counts as not begun: where Prefect's answer to its first
        word was lost, its second is refused and the process ends without a word (`aborted by orchestrator`).
        """
        attending = context.ledger.attending(context.run_id)
        self._came |= {one for one in now if present_name(one) in attending}
        self._taken = {
            one: self._taken.get(one, time.monotonic())
            for one, run in now.items()
            if run.state == "PENDING" or (run.state == "RUNNING" and one not in self._came)
        }
        for one, since in self._taken.items():
            if time.monotonic() - since > BEGIN_SECONDS:
                why = f"taken by a machine, and not begun within {BEGIN_SECONDS:g} s: it counts as dead"
                worker_runs.crash(one, why)
                now[one] = replace(now[one], state="CRASHED", message=why)
        return now

    def _most(self, place: Place) -> int:
        """Workers at a time, as plan, pool and people want it now."""
        usual = 1 if place.limit is None else place.limit
        asked = usual if self.wanted is None else self.wanted
        most = asked if place.limit is None else min(asked, place.limit)
        return max(0, most - self._cancelled)

    def _start(self, context: RunContext) -> None:
        plan = getattr(context.order, "name", "retrain")
        name, key = f"{plan} worker {self._number + 1}", f"{self._key}-{self._number}"
        found = worker_runs.start(name, {"run_id": context.run_id}, key, tags=["dept", plan])
        self._number += 1
        context.ledger.attend(present_name(found), run_id=context.run_id)  # it comes: its share is left to it
        self.runs[found] = WorkerRun(name, "SCHEDULED")
        _log(f"Started flow run {name!r} of {worker_runs.DEPLOYMENT}.")

    def _note_ends(self, context: RunContext, now: dict[str, WorkerRun], free: int) -> None:
        for one, run in now.items():
            if not run.there and self.runs[one].there:
                _log(
                    f"Worker {run.name!r} was suspended: another may take its place until it is resumed.",
                    logging.WARNING,
                )
        self.runs = {one: run for one, run in now.items() if not run.ended}
        left = context.ledger.left(context.run_id)
        if self._left is None or left < self._left:
            self._faults = 0  # something gets done
        self._left = left
        for one, run in now.items():
            if run.ended:
                context.ledger.depart(present_name(one))
            if run.state == "COMPLETED":
                self._idle = self._idle + 1 if run.message == DID_NOTHING and free else 0
                if self._idle > 1:
                    pause = min(LONGEST_PAUSE, PAUSE * 2 ** (self._idle - 2))
                    self._resume = time.monotonic() + pause
                    _log(
                        f"Worker {run.name!r} found nothing that it could do of {free} free trials; the next one comes "
                        f"in {pause:g} s. Its log may say why.",
                        logging.WARNING,
                    )
            elif run.state == "CANCELLED":
                self._cancelled += 1
                _log(f"Worker {run.name!r} was cancelled, and is not replaced.", logging.WARNING)
            elif run.state in ("FAILED", "CRASHED"):
                if one not in self._counted:  # a machine that dies takes several with it: that is one fault
                    self._faults += 1
                    self._counted = set(now)
                if self._faults > FAULTS:
                    raise InputError(
                        f"workers: {self._faults} times in a row they ended without a trial done, the last because: "
                        f"{run.message or run.state}. Remedy: mend that, then run the plan again; what is done is kept"
                    )
                pause = PAUSE * (self._faults - 1 + (run.state == "FAILED"))
                self._resume = time.monotonic() + pause
                when = f"in {pause:g} s" if pause else "now"
                _log(
                    f"Worker {run.name!r} {run.state.lower()} ({run.message}); it is replaced {when}.", logging.WARNING
                )

    def _trouble(self, place: Place, free: int, most: int) -> str:
        """Why nobody works on what could be worked on; empty where all is well."""
        begun = any(run.there and not run.waits for run in self.runs.values())
        if not free or begun:
            return ""
        if place.stopped:
            return (
                f"{free} trials wait: the pool {place.pool} or its deployment is paused. Remedy: resume it in Prefect"
            )
        if self._cancelled and not most:
            return (
                f"{free} trials wait: all workers were cancelled. Remedy: `dept work` on any machine that reaches the "
                f"ledger, or `prefect deployment run {worker_runs.DEPLOYMENT}`; or cancel this run"
            )
        if place.limit == 0:
            return f"{free} trials wait: the pool {place.pool} has the limit 0. Remedy: raise it in Prefect"
        if not place.live:
            return (
                f"{free} trials wait: the pool {place.pool} has no live worker. Remedy: `dept up`, or `prefect worker "
                f"start --pool {place.pool}` on a machine with the device"
            )
        return ""

    def _say(self, trouble: str) -> None:
        """Once for each trouble, and once when it is over."""
        if trouble.partition(" ")[2] == self._said.partition(" ")[2]:  # the number of trials apart
            return
        _log(trouble or "Workers are at work again.", logging.WARNING if trouble else logging.INFO)
        _artifact(trouble or "All is well: workers are at work.")
        self._said = trouble


def _log(line: str, level: int = logging.INFO) -> None:
    """A line in the log of this flow run, which its page shows."""
    from prefect import get_run_logger
    from prefect.exceptions import MissingContextError

    try:
        logger: Any = get_run_logger()
    except MissingContextError:
        logger = logging.getLogger(__name__)
    logger.log(level, line)


def _artifact(text: str) -> None:
    from prefect.artifacts import create_markdown_artifact

    with never_in_the_way("the workers"):
        create_markdown_artifact(text, key="dept-workers", description="workers of this run")
