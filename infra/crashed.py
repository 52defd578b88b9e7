"""What is left of a flow run that crashed: task runs that nobody ends any more, and, if asked for, another attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from infra.prefect_api import PAGE, client

RESTARTS = 3  # of one flow run: what crashes again and again needs a person
PAUSES = (20.0, 60.0, 300.0)  # seconds before each: Prefect's worker may report one crash twice, seconds apart


def end_task_runs(flows: str = "dept-") -> int:
    """Let task runs of crashed flow runs of ours crash, too; their process is gone. Returns how many.

    Args:
        flows: how the names of the flows begin.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import State, StateType

    crashed = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.CRASHED]))
    under_way = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED]
    left = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=under_way))
    wanted: dict[str, Any] = {
        "flow_filter": filters.FlowFilter(name=filters.FlowFilterName(like_=flows)),
        "flow_run_filter": filters.FlowRunFilter(state=crashed),
        "task_run_filter": filters.TaskRunFilter(state=left),
    }
    done, ended = set[UUID](), 0
    with client() as asked:
        while fresh := [one for one in asked.read_task_runs(**wanted, limit=PAGE) if one.id not in done]:
            for one in fresh:
                state: State[Any] = State(type=StateType.CRASHED, message="the process of its flow run is gone")
                done.add(one.id)  # proposed, not forced: one that has ended meanwhile stays as it is
                ended += asked.set_task_run_state(one.id, state).status.value == "ACCEPT"
    return ended


class Outlook(NamedTuple):
    """What becomes of a flow run that crashed, in words. `over`: no process goes on with it."""

    said: str
    over: bool


def restart(flow_run: str) -> Outlook:
    """Start a crashed flow run again, if it was asked to (parameter `restart`), and not too often; says what was done.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.objects import State, StateDetails, StateType
    from prefect.exceptions import ObjectNotFound

    with client() as asked:
        try:
            run = asked.read_flow_run(UUID(flow_run))
        except ObjectNotFound:
            return Outlook("it was deleted", over=True)
        if run.state is None or run.state.type != StateType.CRASHED:
            return Outlook(f"{run.name} is {run.state_name}: nothing to do", over=False)
        if not run.parameters.get("restart"):
            return Outlook(f"{run.name} is not started again: its parameter `restart` is off", over=True)
        if run.run_count > RESTARTS:
            return Outlook(f"{run.name} crashed {run.run_count} times: it is left to a person", over=True)
        pause = PAUSES[max(0, run.run_count - 1)]
        when = StateDetails(scheduled_time=datetime.now(UTC) + timedelta(seconds=pause))
        state: State[Any] = State(
            type=StateType.SCHEDULED,
            name="AwaitingRetry",
            message=f"it crashed; attempt {run.run_count + 1} goes on from what is kept",
            state_details=when,
        )
        asked.set_flow_run_state(run.id, state)
    return Outlook(f"{run.name} is started again in {pause:g} s", over=False)
