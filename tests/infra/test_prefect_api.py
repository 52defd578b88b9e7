"""What is asked of a Prefect server: with its authentication, and without undoing what a person has set."""

import base64
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from infra import prefect_api as asking
from infra.crash_automation import (
    AFTER,
    AUTOMATION,
    HEARTBEAT,
    SILENCE,
    definition,
    ensure_after_crash,
    ensure_crash_automation,
)
from infra.hidden import hidden_credentials
from infra.prefect_api import answers, client, crash_runs, ensure_pools, kept_by_hand, worker_answers
from infra.prefect_state import pools
from infra.temporary_server import prefect_api


@pytest.fixture(scope="module")
def api(prefect_home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPT_HOME", str(prefect_home))
        for name in ("PREFECT_API_URL", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            patch.delenv(name, raising=False)
        with prefect_api() as url:
            yield url


@pytest.fixture
def listener():
    """A server that notes who asks, and answers or refuses."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            self.send_response(Handler.status)
            self.end_headers()
            self.wfile.write(b"true")

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}/api", seen, Handler
    server.shutdown()
    server.server_close()


def test_prefects_own_authentication_is_used(listener):
    place, seen, handler = listener
    with temporary_settings({PREFECT_API_KEY: "the-key"}):
        assert answers(f"http://{place}")
    with temporary_settings({PREFECT_API_AUTH_STRING: "me:pass"}):
        assert answers(f"http://{place}")
    assert seen == ["Bearer the-key", "Basic " + base64.b64encode(b"me:pass").decode()]
    handler.status = 401
    with pytest.raises(ConnectionError, match="401") as raised:
        ensure_pools(f"http://me:s3cr3t@{place}")
    assert "s3cr3t" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_no_server():
    assert not answers("http://127.0.0.1:1/api")
    assert not worker_answers("http://127.0.0.1:1/api", "x", 0.0)
    with pytest.raises(ConnectionError):
        crash_runs("http://127.0.0.1:1/api", "x")


def test_what_a_person_has_set_stays(api):
    ensure_pools(api)
    with client(api) as asked:
        made = {pool.name: pool for pool in asked.read_work_pools()}
        assert {name: (made[name].type, made[name].concurrency_limit) for name in ("control", "gpu")} == {
            "control": ("process", None),
            "gpu": ("process", 1),
        }
        asked.update_work_pool("gpu", WorkPoolUpdate(concurrency_limit=3))
    template = {"job_configuration": {"image": "{{ image }}"}, "variables": {"properties": {"image": {}}}}
    ensure_pools(api, templates=dict.fromkeys(("control", "gpu"), template))
    with client(api) as asked:
        pool = asked.read_work_pool("gpu")
        assert pool.concurrency_limit == 3
        assert pool.base_job_template == template

        flow = asked.create_flow_from_name("dept-kept")
        nightly = {"schedule": CronSchedule(cron="0 3 * * *", timezone="UTC")}

        def deploy():
            return asked.create_deployment(
                flow, "kept", schedules=[nightly | {"active": True}], concurrency_limit=1, tags=["dept"], paused=False
            )

        deployed = deploy()
        (schedule,) = asked.read_deployment_schedules(deployed)
        asked.update_deployment(deployed, DeploymentUpdate(concurrency_limit=4))
        asked.update_deployment_schedule(deployed, schedule.id, active=False)
        asked.pause_deployment(deployed)
        with kept_by_hand(api, ["kept", "another"]):
            deploy()
            now = asked.read_deployment(deployed)
            assert now.global_concurrency_limit.limit == 1  # so a deploy does reset it
        now = asked.read_deployment(deployed)
        assert now.global_concurrency_limit.limit == 4
        assert now.paused
        assert [one.active for one in now.schedules] == [False]
        with kept_by_hand(api, []):
            pass


def run_of(asked, flow, name, tags):
    deployment = asked.create_deployment(asked.create_flow_from_name(flow), name, tags=tags)
    run = asked.create_flow_run_from_deployment(deployment)
    asked.set_flow_run_state(run.id, State(type=StateType.RUNNING), force=True)
    return run


def beat(asked, run, flow):
    """What Prefect's engine sends every 30 s."""
    related = [
        {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"},
        {"prefect.resource.id": f"prefect.deployment.{run.deployment_id}", "prefect.resource.role": "deployment"},
        *({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags),
    ]
    related[0]["prefect.resource.name"] = flow
    event = {
        "id": str(uuid.uuid4()),
        "event": "prefect.flow-run.heartbeat",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        "related": related,
    }
    asked.request("POST", "/events", json=[event])


def test_silent_runs_of_ours_crash_and_no_others(api):
    ensure_crash_automation(api, silence=10)  # the least that Prefect takes
    time.sleep(1)  # the server reads its automations anew
    with client(api) as asked:
        ours = run_of(asked, "dept-silent", "a", ["dept"])
        done = run_of(asked, "dept-silent", "b", ["dept"])
        suspended = run_of(asked, "dept-silent", "c", ["dept"])
        theirs = run_of(asked, "their-flow", "a", ["theirs"])
        tagged = run_of(asked, "their-flow", "b", ["dept"])
        untagged = run_of(asked, "dept-silent", "d", [])
        asked.set_flow_run_state(done.id, State(type=StateType.COMPLETED))
        beat(asked, done, "dept-silent")  # a last one, from a process that exits late
        beat(asked, suspended, "dept-silent")
        asked.set_flow_run_state(suspended.id, State(type=StateType.PAUSED, name="Suspended"), force=True)
        for run, flow in ((theirs, "their-flow"), (tagged, "their-flow"), (untagged, "dept-silent")):
            beat(asked, run, flow)
        beat(asked, ours, "dept-silent")
        deadline = time.monotonic() + 60
        while (state := asked.read_flow_run(ours.id).state).type != StateType.CRASHED:
            assert time.monotonic() < deadline, state
            time.sleep(0.5)
        assert "no heartbeat for 10 s" in state.message
        time.sleep(6)  # one more look of the server at all that is silent
        left = {run.id: asked.read_flow_run(run.id).state for run in (done, suspended, theirs, tagged, untagged)}
    assert left[done.id].is_completed()
    assert left[suspended.id].name == "Suspended"
    assert [left[run.id].type for run in (theirs, tagged, untagged)] == [StateType.RUNNING] * 3


def test_after_a_crash_our_flow_is_run_for_runs_of_ours_alone(api):
    ensure_after_crash(api)  # without its deployment there is nothing to run
    with client(api) as asked:
        assert asked.read_automations_by_name(AFTER) == []
        tidy = asked.create_deployment(asked.create_flow_from_name("dept-after-crash"), "tidy", tags=["dept"])
        for _ in range(2):
            ensure_after_crash(api)
        (made,) = asked.read_automations_by_name(AFTER)
        assert made.enabled
        time.sleep(1)  # the server reads its automations anew
        ours = run_of(asked, "dept-work", "crashes", ["dept"])
        done = run_of(asked, "dept-work", "late", ["dept"])
        theirs = run_of(asked, "their-flow", "crashes", ["dept"])
        asked.set_flow_run_state(done.id, State(type=StateType.COMPLETED))
        late = State(type=StateType.CRASHED, message="its process was killed while it exited")
        assert asked.set_flow_run_state(done.id, late).status.value == "ABORT"  # as Prefect's worker proposes it
        assert asked.read_flow_run(done.id).state.is_completed()
        for run in (theirs, ours):
            asked.set_flow_run_state(run.id, State(type=StateType.CRASHED))
        deadline = time.monotonic() + 90
        while not (asks := [run for run in asked.read_flow_runs() if run.deployment_id == tidy]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(1)
        asks = [run for run in asked.read_flow_runs() if run.deployment_id == tidy]
    assert [run.parameters for run in asks] == [{"flow_run_id": str(ours.id)}]


def test_the_automation_waits_longer_than_three_beats_and_is_replaced_only_when_it_changed(api):
    assert SILENCE > 3 * HEARTBEAT
    assert HEARTBEAT >= 30  # Prefect beats no faster, whatever is set
    ensure_crash_automation(api, silence=11)
    with client(api) as asked:
        (first,) = asked.read_automations_by_name(AUTOMATION)
        asked.pause_automation(first.id)
        before = asked.request("POST", "/automations/filter", json={}).json()
        ensure_crash_automation(api, silence=11)
        assert asked.request("POST", "/automations/filter", json={}).json() == before  # with the time of its change
        ensure_crash_automation(api)
        (new,) = asked.read_automations_by_name(AUTOMATION)
    assert new.id == first.id
    assert not new.enabled  # a person has switched it off
    assert new.trigger.within.total_seconds() == SILENCE
    assert new.actions[0].model_dump().get("force") in (None, False)  # or a Completed run would become Crashed
    assert definition()["trigger"]["expect"][0] == "prefect.flow-run.heartbeat"


def test_runs_of_a_stopped_worker_are_crashed(api, monkeypatch):
    monkeypatch.setattr(asking, "PAGE", 1)
    ensure_pools(api)
    with client(api) as asked:
        flow = asked.create_flow_from_name("dept-stopped")
        pairs = (("in", "gpu"), ("waits", "control"), ("none", None))
        ids = [asked.create_deployment(flow, name, work_pool_name=pool) for name, pool in pairs]
        runs = [asked.create_flow_run_from_deployment(one) for one in ids]
        for run in runs:
            asked.set_flow_run_state(run.id, State(type=StateType.RUNNING), force=True)
        late = asked.create_flow_run_from_deployment(ids[0])
        stops, ends = (asked.create_flow_run_from_deployment(ids[1]) for _ in range(2))
        for run, kind in ((stops, StateType.CANCELLING), (ends, StateType.RUNNING)):
            asked.set_flow_run_state(run.id, State(type=kind), force=True)
        read = SyncPrefectClient.read_flow_runs

        def completes(self, **wanted):  # just after it was seen running
            found = read(self, **wanted)
            if ends.id in {run.id for run in found}:
                self.set_flow_run_state(ends.id, State(type=StateType.COMPLETED), force=True)
            return found

        asked.send_worker_heartbeat("gpu", "a-worker")
        gpu = next(pool for pool in pools(api) if pool.name == "gpu")
        assert (gpu.workers, gpu.running, gpu.waiting) == (("a-worker",), (runs[0].name,), (late.name,))
        assert [worker_answers(api, "a-worker", time.time() + late) for late in (-30, 30)] == [True, False]
        monkeypatch.setattr(SyncPrefectClient, "read_flow_runs", completes)
        names = crash_runs(api, "stopped")
        assert set(names) - {stops.name} == {run.name for run in runs[:2]}  # that one the server itself may end
        states = [asked.read_flow_run(run.id).state.type.value for run in (*runs, stops, ends)]
    assert states == ["CRASHED", "CRASHED", "RUNNING", "CANCELLED", "COMPLETED"]


def test_no_credential_reaches_a_flow_run_or_its_log(api):
    from prefect import flow, get_run_logger
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.logging.handlers import APILogHandler

    @flow(name="dept-leak")
    def leak():
        with hidden_credentials():
            get_run_logger().warning("asking %s", "http://me:s3cr3t@mlflow:5000")
            try:
                raise OSError("postgresql://me:s3cr3t@db/ledger is away")
            except OSError as error:
                raise ConnectionError("the ledger is away") from error

    with temporary_settings({PREFECT_API_URL: api, PREFECT_LOGGING_TO_API_ENABLED: True}):
        with pytest.raises(RuntimeError, match="the ledger is away"):
            leak()
        APILogHandler().flush()
    with client(api) as asked:
        flow_id = asked.create_flow_from_name("dept-leak")
        (run,) = [run for run in asked.read_flow_runs() if run.flow_id == flow_id]
        told = asked.request(
            "POST",
            "/logs/filter",
            json={"logs": LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])).model_dump(mode="json")},
        ).text
    assert "asking http://me:***@mlflow:5000" in told
    assert "the ledger is away" in told + run.state.message
    assert "s3cr3t" not in told + str(run.state)
