"""A flow run that was asked for from a terminal: created, and followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.crashed import RESTARTS
from infra.errors import InputError
from infra.prefect_api import PAGE, client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LOOK_SECONDS = 2.0
AFTER_CRASH_SECONDS = 300.0  # within which a crashed run that is to be started again is scheduled
AWAY_SECONDS = 300.0  # that a server may be away while a run is followed
LAST_LINES_SECONDS = 2.0


def submitted(api: str, deployment: str, name: str, parameters: Mapping[str, Any], tags: Sequence[str]) -> str:
    """Ask for a run of a deployment; returns its id at once.

    Args:
        name: of the flow run until it begins and names itself.

    Raises:
        InputError: no such deployment, or parameters that it refuses.
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    with client(api) as asked:
        try:
            found = asked.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            raise InputError(f"deployment {deployment}: not on {api}. Remedy: `dept deploy`") from error
        try:
            run = asked.create_flow_run_from_deployment(
                found.id, name=name, parameters=dict(parameters), tags=[*found.tags, *tags]
            )
        except PrefectHTTPStatusError as error:
            raise InputError(
                f"deployment {deployment}: {error.response.text[:500]}. Remedy: `dept deploy` anew"
            ) from error
    return str(run.id)


def page(api: str, run: str) -> str:
    """Its page."""
    return f"{api.removesuffix('/').removesuffix('/api')}/runs/flow-run/{run}"


def follow(api: str, run: str, say: Callable[[str], None], restart: bool = False) -> str:
    """Tell of states and log lines until the run has ended; returns the type of its last state, such as COMPLETED.

    Args:
        restart: a crash is not the end where the run is started again.

    Raises:
        ConnectionError: the server was away for longer than `AWAY_SECONDS`.
    """
    from prefect.exceptions import ObjectNotFound

    told, seen, after = "", set[UUID](), None
    crashed: float | None = None
    away: float | None = None
    while True:
        try:
            with client(api) as asked:
                found = asked.read_flow_run(UUID(run))
                if found.state is not None and found.state.is_final():
                    time.sleep(LAST_LINES_SECONDS)  # which a process sends when its run has ended
                after = _logs(asked, run, after, seen, say)
        except ObjectNotFound:
            say("The flow run was deleted.")
            return "CANCELLED"
        except ConnectionError as error:
            if away is None:
                away = time.monotonic()
                say(f"Prefect does not answer ({error}). The run goes on; its server is asked again.")
            if time.monotonic() - away > AWAY_SECONDS:
                raise
            time.sleep(LOOK_SECONDS)
            continue
        away = None
        state = found.state
        line = f"{state.name}{f': {state.message}' if state.message else ''}" if state else ""
        if line != told:
            say(f"{found.name} is {line}")
            told = line
        if state is not None and state.is_final():
            crashed = crashed or time.monotonic()
            waits = restart and state.is_crashed() and found.run_count <= RESTARTS
            if not waits or time.monotonic() - crashed > AFTER_CRASH_SECONDS:
                return str(state.type.value)
        else:
            crashed = None
        time.sleep(LOOK_SECONDS)


def _logs(
    asked: SyncPrefectClient, run: str, after: datetime | None, seen: set[UUID], say: Callable[[str], None]
) -> datetime | None:
    """Tell the lines that are new; those of one moment are known by their ids."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
    from prefect.client.schemas.sorting import LogSort

    offset = 0  # among lines of one moment
    while True:
        only = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[UUID(run)]),
            timestamp=None if after is None else LogFilterTimestamp(after_=after),
        )
        lines = asked.read_logs(only, limit=PAGE, offset=offset, sort=LogSort.TIMESTAMP_ASC)
        for line in lines:
            if line.id not in seen:
                seen.add(line.id)
                say(f"  {line.message}")
        if len(lines) < PAGE:
            return lines[-1].timestamp if lines else after
        offset = offset + PAGE if lines[-1].timestamp == after else 0
        after = lines[-1].timestamp
