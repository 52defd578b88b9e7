"""Flow runs of the worker's deployment, as a controller keeps them going. By Prefect's own client."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from infra.errors import InputError
from infra.prefect_api import PAGE, client
from infra.secrets import masked

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

DEPLOYMENT = "dept-work/worker"
DID_NOTHING = "did nothing: there was nothing that it could take"  # as what a worker's flow run completes


@dataclass(frozen=True)
class Place:
    """Where runs of the deployment wait.

    Attributes:
        pool: its work pool. limit: flow runs at a time there, None where there is no bound. live: workers of Prefect
            that are online there.
        stopped: the pool or the deployment is paused.
    """

    pool: str
    limit: int | None
    stopped: bool
    live: int


@dataclass(frozen=True)
class WorkerRun:
    """One flow run. `state`: Prefect's type of it, such as RUNNING; `message`: its reason, without credentials."""

    name: str
    state: str
    message: str = ""

    @property
    def waits(self) -> bool:
        """It has not begun."""
        return self.state in ("SCHEDULED", "PENDING")

    @property
    def there(self) -> bool:
        """It works, or is about to: a suspended one has no process until a person resumes it."""
        return self.state != "PAUSED"

    @property
    def ended(self) -> bool:
        """Nothing more comes of it."""
        return self.state in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def place(deployment: str = DEPLOYMENT) -> Place:
    """The place of a deployment, as it is now.

    Raises:
        InputError: no such deployment, or one without a pool.
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    with _told(), client() as asked:
        try:
            found = asked.read_deployment_by_name(deployment)
            if found.work_pool_name is None:
                raise InputError(
                    f"deployment {deployment}: it has no work pool, so no worker takes its runs. Remedy: deploy again"
                )
            pool = asked.read_work_pool(found.work_pool_name)
        except ObjectNotFound as error:
            raise InputError(
                f"deployment {deployment}: not on this Prefect server, so no worker can be started. Remedy: `dept up`, "
                "or `prefect --no-prompt deploy --all --prefect-file infra/prefect.yaml`"
            ) from error
        online = [one for one in asked.read_workers_for_work_pool(pool.name) if one.status == WorkerStatus.ONLINE]
    return Place(pool.name, pool.concurrency_limit, bool(pool.is_paused or found.paused), len(online))


def start(
    name: str, parameters: Mapping[str, Any], key: str, tags: Sequence[str] = (), deployment: str = DEPLOYMENT
) -> str:
    """Ask for a flow run, below the flow or task run that this process is in; returns its id at once.

    Args:
        key: two calls with one key make one flow run, so an answer that was lost does no harm.

    Raises:
        InputError: see `place`.
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    with _told():
        try:
            made = run_deployment(
                deployment,
                parameters=dict(parameters),
                flow_run_name=name,
                timeout=0,
                idempotency_key=key,
                tags=list(tags),
            )
        except ObjectNotFound as error:
            raise InputError(f"deployment {deployment}: it was taken away. Remedy: `dept up`") from error
    return str(cast("FlowRun", made).id)  # a coroutine is only what an async caller gets


def look(ids: Iterable[str]) -> dict[str, WorkerRun]:
    """The state of flow runs by id; one that was deleted counts as cancelled.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    wanted = list(ids)
    if not wanted:
        return {}
    found = dict.fromkeys(wanted, WorkerRun("deleted", "CANCELLED"))
    with _told(), client() as asked:
        for start in range(0, len(wanted), PAGE):
            part = [UUID(one) for one in wanted[start : start + PAGE]]
            only = FlowRunFilter(id=FlowRunFilterId(any_=part))
            found |= {str(run.id): _seen(run) for run in asked.read_flow_runs(flow_run_filter=only, limit=PAGE)}
    return found


def unfinished(run_id: str, deployment: str = DEPLOYMENT) -> dict[str, WorkerRun]:
    """Flow runs of the deployment that work for this run of the ledger, and have not ended, by id.

    Raises:
        InputError: see `place`.
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound

    still = [kind for kind in StateType if not WorkerRun("", kind.value).ended]
    with _told(), client() as asked:
        try:
            of = asked.read_deployment_by_name(deployment).id
        except ObjectNotFound as error:
            raise InputError(f"deployment {deployment}: it was taken away. Remedy: `dept up`") from error
        only = filters.FlowRunFilter(
            deployment_id=filters.FlowRunFilterDeploymentId(any_=[of]),
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=still)),
        )
        found: list[FlowRun] = []
        for offset in itertools.count(0, PAGE):
            part = asked.read_flow_runs(flow_run_filter=only, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset)
            found += part
            if len(part) < PAGE:
                break
    return {str(run.id): _seen(run) for run in found if run.parameters.get("run_id") == run_id}


def crash(run: str, message: str) -> None:
    """Propose that a flow run crashed; one that has ended stays as it is.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.objects import State, StateType

    with _told(), client() as asked:
        asked.set_flow_run_state(UUID(run), State(type=StateType.CRASHED, message=message))


def withdraw(ids: Iterable[str], message: str) -> None:
    """Cancel flow runs that have not begun, or were suspended; one at work, or that has ended, is left alone.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.client.schemas.objects import State, StateType

    waiting = [one for one, run in look(ids).items() if run.state in ("SCHEDULED", "PAUSED")]
    with _told(), client() as asked:
        for one in waiting:
            asked.set_flow_run_state(UUID(one), State(type=StateType.CANCELLED, message=message))


def own_pool() -> str | None:
    """The work pool of the deployment that this flow run came from; None where it came from none, or one without.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect import runtime

    found = runtime.deployment.id
    if not found:
        return None
    with _told(), client() as asked:
        return asked.read_deployment(UUID(str(found))).work_pool_name


def _seen(run: FlowRun) -> WorkerRun:
    if run.state is None:
        return WorkerRun(run.name, "SCHEDULED")
    return WorkerRun(run.name, run.state.type.value, masked(run.state.message or ""))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of Prefect's client as ConnectionError, without credentials."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise ConnectionError(masked(error).splitlines()[0] if str(error) else type(error).__name__) from None
