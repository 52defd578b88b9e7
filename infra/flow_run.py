"""The flow run that this process is, as its Prefect server has it: whether it is to end, and how it ends then.

Prefect's own engine hears of a suspension only between tasks, while a stack trains for hours; a run whose process
another one has replaced, or that an automation took for dead, it does not hear of at all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.prefect_api import client

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_LOG = logging.getLogger(__name__)
ASK_SECONDS = 10.0  # a server that takes longer to answer is asked again later


def own_id() -> str | None:
    """Id of the flow run that this code is part of, as 32 hex digits; None outside of one."""
    from prefect.context import FlowRunContext  # `runtime` would also tell of one whose environment was inherited

    found = FlowRunContext.get()
    return None if found is None or found.flow_run is None else found.flow_run.id.hex


def title(text: str) -> str:
    """A name for a task run: Prefect takes what stands in braces for parameters."""
    return text.replace("{", "(").replace("}", ")")


@contextlib.contextmanager
def never_in_the_way(what: str) -> Iterator[None]:
    """What a page only shows is never worth a run: a fault is said in the log, and the run goes on."""
    try:
        yield
    except Exception as error:  # of Prefect, its client, its database or the network: the work does not hang on them
        _LOG.warning("Prefect's page lacks %s: %s", what, error)


def present_name(run: str) -> str:
    """By which the worker of a flow run is known in the ledger, before its process has begun and after."""
    return f"flow-run:{UUID(run).hex}"


def end_asked(run: str) -> Callable[[], State | None]:
    """A question: has this process been told to end its flow run? The answer is the state that says so, or None.

    That is any state but running: cancelling, suspended, crashed (it was silent for long, and its place was given
    away), scheduled (it is to be run anew); and a newer attempt of the run, which another process makes.

    Raises:
        ConnectionError: (the question) the server does not answer.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled

    attempt: list[int] = []  # as this process began, and since
    wanted, api = UUID(run), _api()

    def ask() -> State | None:
        try:
            with client(api, ASK_SECONDS, retries=0) as asked:
                found = asked.read_flow_run(wanted)
        except ObjectNotFound:
            return Cancelled(message="the flow run was deleted")
        state = found.state
        if state is None or state.is_pending():
            return None
        if state.is_running():
            attempt.append(found.run_count)
            return state if attempt[-1] > attempt[0] else None
        if state.is_paused() and state.name != "Suspended":  # its process is to wait, not to end
            return None
        return state

    return ask


def stopped(run: str) -> Callable[[], State | None]:
    """A question: has a person cancelled or suspended this flow run, of another process? None also where there is none.

    Raises:
        ConnectionError: (the question) the server does not answer.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        wanted, api = UUID(run), _api()
    except ValueError:  # an id that somebody typed
        return lambda: None

    def ask() -> State | None:
        try:
            with client(api, ASK_SECONDS, retries=0) as asked:
                state = asked.read_flow_run(wanted).state
        except ObjectNotFound:
            return None
        over = state is not None and (state.is_cancelling() or state.is_cancelled() or state.name == "Suspended")
        return state if over else None

    return ask


@contextlib.contextmanager
def ends_as(state_of: Callable[[BaseException], State | None]) -> Iterator[None]:
    """For the body of a flow: an error that came of a state ends the flow run as that state wants it.

    Suspended: the process ends, Resume starts it anew. Cancelling: the run is cancelled. Else nothing is changed.

    Args:
        state_of: the state behind an error; None: the error is one.

    Raises:
        prefect.exceptions.Pause, prefect.exceptions.Abort: in place of the error; Prefect's engine ends by them.
    """
    from prefect.exceptions import Abort, Pause

    try:
        yield
    except Exception as error:
        if (state := state_of(error)) is None:
            raise
        if state.is_paused():
            raise Pause(state=state) from error
        if state.is_cancelling() and (run := own_id()) is not None:
            set_state(run, "cancelled", str(error))
        raise Abort(str(error)) from error


def set_state(run: str, kind: str, message: str, **more: Any) -> None:
    """Propose a state for a flow run; a server that refuses or is away changes nothing.

    Args:
        kind: cancelled, crashed, scheduled: a StateType, in small letters.
    """
    from prefect.client.schemas.objects import State, StateType

    with contextlib.suppress(ConnectionError), client(_api(), ASK_SECONDS) as asked:
        asked.set_flow_run_state(UUID(run), State(type=StateType[kind.upper()], message=message, **more))


def _api() -> str | None:
    """Of the server that this thread's flow run is on: other threads see Prefect's settings, not a block's own."""
    from prefect.settings import PREFECT_API_URL

    found: str | None = PREFECT_API_URL.value()
    return found
