"""What Prefect's pages show of our flow runs: their names, their parts as task runs, and how they end when asked to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from prefect import runtime, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, CancelledRun, Pause
from prefect.states import Cancelled, Cancelling, Running
from prefect.tasks import exponential_backoff

from flows.execution.context import RunContext
from flows.execution.heal import LostError
from flows.execution.lease import LeaseLostError
from flows.execution.stopping import Asked, ReplacedError, RunEndedError, StoppedError, Stopping
from infra import flow_run
from infra.errors import InputError, may_pass

T = TypeVar("T")
# Told to whoever runs the part, which goes on or ends as it should: their pages show no traceback.
NO_FAILURES = (StoppedError, RunEndedError, LeaseLostError, LostError)
_LOG = logging.getLogger("flows.pages")
RETRIES, BACKOFF = 2, exponential_backoff(10)  # seconds: 10, 20; where a store was away
SHORT_SECONDS = 3_600  # for a part that waits for nobody's training


class EndAskedError(StoppedError):
    """Its flow run is in this state, and so the process is to end."""

    def __init__(self, state: State) -> None:
        super().__init__(f"flow run is {(state.name or state.type.value).lower()}: {state.message or 'as asked'}")
        self.state = state


def run_name() -> str:
    """Name of a flow run of a plan or of retraining: the plan's, and how the run's id begins in `dept status`."""
    asked = runtime.flow_run.parameters
    order = asked.get("plan") or asked.get("order") or {}
    name = order.get("name") if isinstance(order, dict) else getattr(order, "name", None)
    return f"{name or 'retrain'} {(flow_run.own_id() or '')[:12]}".strip()


@contextlib.contextmanager
def watched(stopping: Stopping, controller: str | None = None) -> Iterator[None]:
    """Look while the block runs whether this process is to end its flow run; without one nobody is asked.

    Args:
        controller: flow run for which it works: where a person stops that one, this ends, too, without waiting for it.
    """
    run = flow_run.own_id()
    with contextlib.ExitStack() as stack:
        if run is not None:
            stack.enter_context(stopping.asking(_told(run)))
        if run is not None and controller is not None:
            stack.enter_context(stopping.asking(_stopped(controller)))
        stack.enter_context(stopping.watching())
        yield


def ends() -> contextlib.AbstractContextManager[None]:
    """For the body of a flow: a stop that was asked for is no failure; see `infra.flow_run.ends_as`."""
    return flow_run.ends_as(_state_behind)


@contextlib.contextmanager
def ended_in_prefect() -> Iterator[None]:
    """For who calls a flow from a terminal: somebody has ended the run on its page.

    Raises:
        InputError: in place of Prefect's signal.
    """
    try:
        yield
    except (Abort, Pause) as signal:
        what = str(signal) or "it was suspended"
        raise InputError(
            f"stopped in Prefect: {what}. Remedy: the same command goes on from what is finished"
        ) from None


def step(
    name: str,
    body: Callable[[], T],
    *,
    title: str | None = None,
    kinds: Sequence[str] = (),
    timeout: float | None = None,
    again: bool = True,
) -> T:
    """Run a part of a flow as a Prefect task, so that its page shows it. What it gives stays in this process.

    A Prefect that is away neither keeps a part from being done nor takes away what it gave.

    Args:
        title: name of the task run; None: the part's.
        kinds: tags. timeout: seconds; for parts that wait for no training.
        again: in a run that nobody watches, try a part anew that met a store which was away; the ledger knows what of
            it is done.
    """
    kept: list[T] = []
    stopped: list[Exception] = []
    begun: list[bool] = []

    def part() -> State | None:
        begun.append(True)
        try:
            kept.append(body())
        except NO_FAILURES as error:
            stopped.append(error)
            return Cancelled(message=str(error))
        return None

    made: Any = task(
        name=name,
        task_run_name=flow_run.title(title or name),
        tags={"dept", *kinds},
        cache_policy=NO_CACHE,
        retries=RETRIES if again and runtime.deployment.id else 0,
        retry_delay_seconds=BACKOFF,
        retry_condition_fn=_may_pass,
        timeout_seconds=timeout,
    )(part)
    try:
        made()
    except CancelledRun:
        pass
    except Exception as error:  # the part's own, or Prefect's: whichever of its faults, what was done stands
        if begun and not kept:
            raise  # its own
        _LOG.warning("Prefect's page lacks %s: %s", title or name, error)
    if stopped:
        raise stopped[0]
    return kept[-1] if kept else body()


def shown_in(context: RunContext) -> None:
    """Let each stack of this worker be a task run, named after plan and stack, where the worker is a flow run."""
    if flow_run.own_id() is None:
        return
    name = getattr(context.order, "name", "retrain")

    def shown(title: str, body: Callable[[], None]) -> None:
        step("stack", body, title=f"{name}: {title}", kinds=["stack"], again=False)  # the ledger gives it out again

    context.shown = shown


@contextlib.contextmanager
def tagged(*names: str) -> Iterator[None]:
    """Tags of the task runs of the block, and of flow runs that are begun in it."""
    with tags("dept", *names):
        yield


def _told(run: str) -> Asked:
    asked = flow_run.end_asked(run)

    def ask() -> Exception | None:
        state = asked()
        return None if state is None else EndAskedError(state)

    return ask


def _stopped(controller: str) -> Asked:
    asked = flow_run.stopped(controller)

    def ask() -> Exception | None:
        state = asked()
        return None if state is None else RunEndedError(f"run {controller[:12]} is {(state.name or '').lower()}")

    return ask


def _state_behind(error: BaseException) -> State | None:
    if isinstance(error, EndAskedError):
        return error.state
    if isinstance(error, ReplacedError):
        return Running(message=str(error))  # by another process, and so this one says nothing of it
    return Cancelling(message=str(error)) if isinstance(error, RunEndedError) else None


def _may_pass(_task: Any, _run: Any, state: State) -> bool:
    return isinstance(state.data, BaseException) and may_pass(state.data)
