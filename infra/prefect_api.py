"""What is asked of a Prefect server, by Prefect's own client and with its authentication.

That is PREFECT_API_KEY or PREFECT_API_AUTH_STRING, from the environment, a profile or prefect.toml.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from uuid import UUID

from infra.errors import InputError
from infra.secrets import masked

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

CONTROL, GPU = "control", "gpu"  # a controller waits for its workers, so it must not hold the place that they need
PAGE = 200  # flow runs, task runs or log lines that a server tells of at once
LIMITS = {CONTROL: None, GPU: 1}  # flow runs at a time when the pool is made; a run takes the whole device


@contextlib.contextmanager
def client(api: str | None = None, timeout: float = 30.0, retries: int | None = None) -> Iterator[SyncPrefectClient]:
    """Prefect's client for one server.

    Args:
        api: URL of its API; None: the one that Prefect is set to.
        timeout: seconds that an answer may take.
        retries: how often Prefect asks again; None: as often as it is set to.

    Raises:
        ConnectionError: no answer, or a refusal; its text shows no credentials.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    changed: dict[Any, Any] = {} if api is None else {PREFECT_API_URL: api}
    changed |= {} if retries is None else {PREFECT_CLIENT_MAX_RETRIES: retries}
    options: dict[str, Any] = {"timeout": timeout}
    if api is not None and urlparse(api).hostname in ("127.0.0.1", "localhost", "::1"):
        options["trust_env"] = False  # this machine is never behind a proxy
    if retries == 0:
        options["transport"] = httpx.HTTPTransport()  # else Prefect tries a refused connection thrice: 1.5 s
    with temporary_settings(changed):
        try:
            with get_client(sync_client=True, httpx_settings=options) as made:
                yield made
        except httpx.HTTPError as error:
            raise ConnectionError(masked(error).splitlines()[0] if str(error) else type(error).__name__) from None


def answers(api: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect server is healthy at this URL."""
    try:
        with client(api, timeout, retries=0) as asked:
            return asked.api_healthcheck() is None
    except (ConnectionError, ValueError):
        return False


def ensure_pools(
    api: str | None = None, kind: str = "process", templates: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Make the work pools `control` and `gpu` where they are missing.

    A pool that is there keeps its limit, which a person may have set; only its template is brought up to date.

    Args:
        kind: process, docker or kubernetes.
        templates: the base job template of each pool (infra/pool_templates.py); None: Prefect's own.

    Raises:
        InputError: one is there, and of another kind.
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
    from prefect.exceptions import ObjectAlreadyExists

    with client(api) as asked:
        named = WorkPoolFilter(name=WorkPoolFilterName(any_=list(LIMITS)))
        for pool in asked.read_work_pools(work_pool_filter=named):
            if pool.type != kind:
                raise InputError(
                    f"pool {pool.name}: it is there, of type {pool.type}, not {kind}, and a pool keeps its type. "
                    f"Remedy: `dept deploy --type {pool.type}`; or delete it (`prefect work-pool delete {pool.name}`), "
                    "then deploy again"
                )
        for name, limit in LIMITS.items():
            given: dict[str, Any] = {} if templates is None else {"base_job_template": templates[name]}
            try:
                asked.create_work_pool(WorkPoolCreate(name=name, type=kind, concurrency_limit=limit, **given))
            except ObjectAlreadyExists:
                if given:
                    asked.update_work_pool(name, WorkPoolUpdate(**given))


@contextlib.contextmanager
def kept_by_hand(api: str | None, names: Sequence[str]) -> Iterator[None]:
    """What a person has set on deployments of these names outlives a deploy inside the block.

    That is the concurrency limit, whether the deployment is paused, and which of its schedules are off.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    before = _deployments(api, names)
    yield
    after = _deployments(api, names) if before else {}
    from prefect.client.schemas.actions import DeploymentUpdate

    with client(api) as asked:
        for key, old in before.items():
            new = after.get(key)
            if new is None:
                continue
            if _limit(old) != _limit(new):
                asked.update_deployment(old.id, DeploymentUpdate(concurrency_limit=_limit(old)))
            if old.paused and not new.paused:
                asked.pause_deployment(old.id)
            off = [one.schedule for one in old.schedules if not one.active]
            for one in new.schedules:
                if one.active and one.schedule in off:
                    asked.update_deployment_schedule(old.id, one.id, active=False)


def crash_runs(api: str, message: str) -> list[str]:
    """Say of every unfinished flow run of our pools that it crashed, or is cancelled by now; returns their names.

    For a worker that was stopped: Prefect would show its flow runs as running, and count them, until the next start.

    Raises:
        ConnectionError: the server does not answer.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import State, StateType

    open_states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    only = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_states)))
    ours = WorkPoolFilter(name=WorkPoolFilterName(any_=list(LIMITS)))
    seen, names = set[UUID](), list[str]()
    with client(api) as asked:
        while fresh := [
            run
            for run in asked.read_flow_runs(flow_run_filter=only, work_pool_filter=ours, limit=PAGE)
            if run.id not in seen
        ]:
            for run in fresh:
                seen.add(run.id)
                # Proposed, not forced: one that has completed meanwhile stays so. Who was being cancelled is cancelled.
                cancelling = run.state is not None and run.state.is_cancelling()
                kind = StateType.CANCELLED if cancelling else StateType.CRASHED
                answer = asked.set_flow_run_state(run.id, State(type=kind, message=message))
                if answer.status.value == "ACCEPT":
                    names.append(run.name)
    return names


def worker_answers(api: str, name: str, since: float, pool: str = GPU) -> bool:
    """True if the worker `name` of the pool is online and spoke after `since` (seconds since the epoch)."""
    from prefect.client.schemas.objects import WorkerStatus

    try:
        with client(api, 5.0, retries=0) as asked:
            workers = asked.read_workers_for_work_pool(pool)
    except ConnectionError:
        return False
    for worker in workers:
        seen = worker.last_heartbeat_time
        if worker.name == name and worker.status == WorkerStatus.ONLINE and seen is not None:
            return seen.replace(tzinfo=seen.tzinfo or UTC).timestamp() >= since - 1
    return False


def _deployments(api: str | None, names: Sequence[str]) -> dict[Any, Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    if not names:
        return {}
    with client(api) as asked:
        found = asked.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(names))))
    return {one.id: one for one in found}


def _limit(deployment: Any) -> int | None:
    limit = deployment.global_concurrency_limit
    return None if limit is None else int(limit.limit)
