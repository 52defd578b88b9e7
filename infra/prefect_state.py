"""What a Prefect server says about our pools: their limits, their workers, and the flow runs under way or waiting."""

from __future__ import annotations

from dataclasses import dataclass

from infra.prefect_api import LIMITS, client

_LISTED = 200  # flow runs that are looked at, the newest first


@dataclass(frozen=True)
class PoolState:
    """One work pool. `limit`: flow runs at a time, None where there is no bound; runs and workers by name."""

    name: str
    kind: str
    limit: int | None
    paused: bool
    workers: tuple[str, ...]
    running: tuple[str, ...]
    waiting: tuple[str, ...]


def pools(api: str | None = None) -> list[PoolState]:
    """State of the pools `control` and `gpu`, where they are.

    Args:
        api: URL of the API; None: the one that Prefect is set to.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType, WorkerStatus
    from prefect.client.schemas.sorting import FlowRunSort

    under_way = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[*under_way, StateType.SCHEDULED]))
    found = []
    with client(api, timeout=5.0, retries=0) as asked:
        known = {pool.name: pool for pool in asked.read_work_pools()}
        for name in LIMITS:
            if name not in known:
                continue
            runs = asked.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=states),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name])),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=_LISTED,
            )
            due = [run for run in runs if run.state is not None and run.state.type != StateType.SCHEDULED]
            # What a schedule has planned for another day waits for its time, not for a worker.
            late = [run for run in runs if run not in due and run.state is not None and not run.auto_scheduled]
            pool = known[name]
            found.append(
                PoolState(
                    name,
                    pool.type,
                    pool.concurrency_limit,
                    bool(pool.is_paused),
                    tuple(
                        worker.name
                        for worker in asked.read_workers_for_work_pool(name)
                        if worker.status == WorkerStatus.ONLINE
                    ),
                    tuple(run.name for run in due),
                    tuple(run.name for run in late),
                )
            )
    return found
