"""Runs in pools with live workers: cancelled, suspended and resumed, killed and started again; nothing is lost."""

import contextlib
import os
import signal
import time

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateDetails, StateType

from flows.planning.plan_file import load_plan
from infra.prefect_api import client
from registry.ledger import Ledger
from tests.flows.pool_helpers import deploy, served, wait_for

CALM = os.getloadavg()[0] < 2 * (os.cpu_count() or 1)
SECONDS = (
    10 if CALM else 90
)  # within which a worker that is asked to end is gone; a crowded machine shows only that it does
LONG = {"steps": 100_000, "batch_size": 4, "eval_every": 50_000, "patience": None}


def type_of(asked, run):
    return asked.read_flow_run(run).state.type


def pids():
    """Processes that hold trials."""
    return {int(row.owner.rsplit(":", 2)[1]) for row in Ledger.open().find() if row.status == "running"}


def gone(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def statuses():
    return {row.status for row in Ledger.open().find()}


@pytest.mark.timeout(1500)
def test_suspend_resume_kill_restart_cancel(prefect_url, make_plan, tmp_path, tiny_folders):
    plan = load_plan(make_plan(name="life", sources=["food"], targets=["film"], seeds=[0], source_training=LONG))
    ids, log = deploy(prefect_url, limit=1), tmp_path / "served.log"
    roots = f"{tmp_path}:{tiny_folders['llama'].parent}"
    took = {}
    with served(prefect_url, log, DEPT_PLAN_ROOTS=roots), client(prefect_url) as asked:
        parameters = {"plan": plan.model_dump(mode="json"), "restart": True}
        run = asked.create_flow_run_from_deployment(ids["fewshot"], parameters=parameters).id

        def trains():
            wait_for(lambda: pids(), 400)
            (worker,) = pids()
            return worker

        def set_to(kind, **more):
            began = time.monotonic()
            asked.set_flow_run_state(run, State(type=kind, **more))
            return began

        def ended(what, worker, controller, began):
            wait_for(lambda: gone(worker) and gone(controller), 120)
            took[what] = round(time.monotonic() - began, 1)
            wait_for(lambda: statuses() == {"pending"}, 5)

        def controller():
            (row,) = Ledger.open().runs()  # one run, however often it goes on
            assert row.run_id == run.hex
            return int(row.owner.rsplit(":", 2)[1])

        worker = trains()
        began = set_to(StateType.PAUSED, name="Suspended", state_details=StateDetails(pause_reschedule=True))
        ended("suspend", worker, controller(), began)
        assert asked.read_flow_run(run).state.name == "Suspended"
        asked.resume_flow_run(run)
        worker = trains()

        os.kill(controller(), signal.SIGKILL)
        killed = controller()
        wait_for(lambda: type_of(asked, run) == StateType.CRASHED, 170)
        tidied = [-1000.0]

        def goes_on():
            """With a run of `tidy` after each crash, as the automation has it: Prefect may report one crash twice."""
            if type_of(asked, run) == StateType.CRASHED and time.monotonic() - tidied[-1] > 40:
                tidied.append(time.monotonic())
                asked.create_flow_run_from_deployment(ids["tidy"], parameters={"flow_run_id": str(run)})
            return controller() != killed

        wait_for(goes_on, 400)
        assert asked.read_flow_run(run).run_count > 1
        assert not gone(worker), "its worker went on meanwhile"

        began = set_to(StateType.CANCELLING)
        ended("cancel", worker, controller(), began)
        wait_for(lambda: type_of(asked, run) == StateType.CANCELLED, 30)
        of_workers = [one for one in asked.read_flow_runs() if one.deployment_id == ids["worker"]]
        wait_for(lambda: all(asked.read_flow_run(one.id).state.is_final() for one in of_workers), 30)
        assert not any(asked.read_flow_run(one.id).state.is_failed() for one in of_workers), log.read_text()[-3000:]
        every = FlowRunFilter(id=FlowRunFilterId(any_=[run, *(one.id for one in of_workers)]))
        wait_for(lambda: not any(part.state.is_running() for part in asked.read_task_runs(flow_run_filter=every)), 30)
    print(took)
    assert max(took.values()) < SECONDS
