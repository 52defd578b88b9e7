"""Prefect's pages of a run: names, progress while it trains, tables, plots, what came of what; and after a crash."""

import json
import time
import uuid
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType

from dept.trial import TrialOutcome
from flows import lineage, transfer
from flows.after_crash import dept_after_crash
from flows.execution import progress
from flows.planning.plan_file import load_plan
from infra import crashed, progress_page
from infra.prefect_api import client
from registry.ledger import Ledger
from registry.tracking import Tracker
from tests.registry.ledger_helpers import make_spec


def until(asked, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := asked()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found


def parts_of(asked, run):
    return asked.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))


def artifacts_of(asked, run):
    body = {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
    return {one["key"]: one for one in asked.request("POST", "/artifacts/filter", json=body).json()}


def test_a_run_on_its_page(prefect_url, make_plan):
    plan = make_plan(name="on-its-page", seeds=[0], targets=["film"], sources=["food"], strategies=["source:food"])
    done = transfer.run(load_plan(plan))
    (row,) = Ledger.open().runs()
    assert row.mlflow_run_id == done.run_id
    with client(prefect_url) as asked:
        run = asked.read_flow_run(uuid.UUID(row.run_id))  # one id in both
        assert run.name == f"on-its-page {row.run_id[:12]}"

        def ended():
            found = parts_of(asked, run.id)
            return found if len(found) > 8 and all(one.state and one.state.is_final() for one in found) else None

        parts = until(ended)
        names = {part.name for part in parts}
        assert {"on-its-page: sources (1 trials)", "on-its-page: 1 source: food"} <= names
        assert {"on-its-page: targets (2 trials)", "on-its-page: 2 targets: film"} <= names
        assert "food, source" in names
        assert "film, k=4, source:food" in names, names
        assert all({"dept", "on-its-page"} <= set(part.tags) for part in parts)
        assert {part.state.type for part in parts} == {StateType.COMPLETED}
        told = artifacts_of(asked, run.id)
        events = asked.request(
            "POST", "/events/filter", json={"filter": {"event": {"prefix": ["prefect.asset."]}}}
        ).json()
    assert "| film |" in told["report-on-its-page"]["data"]
    assert json.loads(told["scores-on-its-page"]["data"])[0]["target"] == "film"
    assert told["plot-on-its-page"]["data"].startswith("data:image/png;base64,")
    assert "```mermaid" in told["lineage-on-its-page"]["data"]
    source, target = "dept://tiny-llama/adapters/food/source", "dept://tiny-llama/adapters/film/k4/"
    done = [one for one in events["events"] if one["event"] == "prefect.asset.materialization.succeeded"]
    (made,) = [one for one in done if one["resource"]["prefect.resource.id"].startswith(target + "source-food")]
    assert source in {one["prefect.resource.id"] for one in made["related"]}
    assert "sha256" in made["payload"]["seed 0"]


def test_progress_is_told_while_it_lasts_and_a_server_that_is_away_holds_up_nobody(prefect_url, monkeypatch):
    monkeypatch.setattr(progress_page, "EVERY", 0.3)
    seen = []

    @flow(name="dept-progress")
    def training():
        from infra.flow_run import own_id

        seen.append(uuid.UUID(own_id()))
        with progress.bar("Training 2 targets", 100.0, "tokens") as shown, client(prefect_url) as asked:
            shown.restore(20)
            for _ in range(4):
                shown.advance(10)
                shown.note(loss=0.5)
                time.sleep(0.3)

            def told():
                found = artifacts_of(asked, seen[0]).get("progress-training-2-targets")
                return found if found and "loss" in found["description"] else None

            seen.append(until(told))
            monkeypatch.setattr(progress_page, "client", away)
            began = time.monotonic()
            for _ in range(10):
                shown.advance(1)
                time.sleep(0.1)
            seen.append(time.monotonic() - began)
            monkeypatch.setattr(progress_page, "client", client)
            shown.advance(30)

    def away(*_, **__):
        raise ConnectionError("away")

    logged = []
    monkeypatch.setattr("prefect.get_run_logger", lambda: SimpleNamespace(info=lambda *line: logged.append(line)))
    training()
    run, middle, took = seen
    assert middle["type"] == "progress"
    assert 20 <= middle["data"] <= 60
    assert "tokens/s, loss 0.5, about" in middle["description"]
    assert took < 8  # of a second's work, on a busy machine
    with client(prefect_url) as asked:
        assert artifacts_of(asked, run)["progress-training-2-targets"]["data"] == 100
    assert {line[1] for line in logged} == {"Training 2 targets"}
    assert len(logged) > 2


def test_seeds_of_one_variant_are_one_asset():
    made = [
        TrialOutcome(make_spec(seed=seed), f"adapters/{seed}", f"{seed}" * 64, 4, 10, {"score": 50.0})
        for seed in range(2)
    ]
    (node,) = lineage.nodes("b", made)
    assert {seed: about["sha256"] for seed, about in node.about.items()} == {"seed 0": "0" * 64, "seed 1": "1" * 64}
    assert lineage.picture([node]).count("-->") == 1


@pytest.fixture
def crash(prefect_url):
    """A flow run of a deployment that crashed in the middle of a part."""

    def make(asked, **parameters):
        asked.request("GET", "/health")
        deployment = asked.create_deployment(
            asked.create_flow_from_name("dept-crashed"), uuid.uuid4().hex, tags=["dept"]
        )
        run = asked.create_flow_run_from_deployment(deployment, parameters=parameters)
        asked.set_flow_run_state(run.id, State(type=StateType.RUNNING), force=True)
        from prefect import task

        part = asked.create_task_run(task(lambda: None, name="part"), run.id, "0", state=State(type=StateType.RUNNING))
        asked.set_flow_run_state(run.id, State(type=StateType.CRASHED), force=True)
        return run.id, part.id

    return make


def test_no_part_stays_running_behind_a_crash_and_one_that_asked_for_it_starts_again(prefect_url, crash, monkeypatch):
    with client(prefect_url) as asked:
        left, part = crash(asked)
        wanted, other = crash(asked, restart=True)
        alive = asked.create_flow_run(flow(name="dept-alive")(lambda: None), state=State(type=StateType.RUNNING))
        from prefect import task

        going = asked.create_task_run(task(lambda: None, name="x"), alive.id, "0", state=State(type=StateType.RUNNING))
        _, late = crash(asked)
        ledger, tracker, mlflow = Ledger.open(), Tracker(), {}
        for run in (left, wanted):  # of a controller on another host, of which nobody hears here
            mlflow[run] = tracker.open_flow_run("gone", {}, {})
            ledger.begin_run("gone", {}, run_id=run.hex, mlflow_run_id=mlflow[run])
        read = SyncPrefectClient.read_task_runs

        def ends(self, **wanted):  # just after it was seen running
            found = read(self, **wanted)
            if late in {one.id for one in found}:
                self.set_task_run_state(late, State(type=StateType.COMPLETED), force=True)
            return found

        monkeypatch.setattr(SyncPrefectClient, "read_task_runs", ends)
        said = dept_after_crash(left)
        assert "2 task runs of crashed flow runs were ended" in said
        assert "`restart` is off" in said
        assert {asked.read_task_run(one).state.type for one in (part, other)} == {StateType.CRASHED}
        assert asked.read_task_run(going.id).state.is_running()
        assert asked.read_task_run(late).state.is_completed()
        assert asked.read_flow_run(left).state.is_crashed()
        assert "started again in 20 s" in dept_after_crash(wanted)
        assert [ledger.run(run.hex).status for run in (left, wanted)] == ["killed", "running"]
        found = [tracker.client.get_run(mlflow[run]).info.status for run in (left, wanted)]
        assert found == ["KILLED", "RUNNING"]
        state = asked.read_flow_run(wanted).state
        assert state.is_scheduled()
        assert state.name == "AwaitingRetry"
        assert "nothing to do" in crashed.restart(wanted.hex).said  # asked twice
        for _ in range(3):
            asked.set_flow_run_state(wanted, State(type=StateType.RUNNING), force=True)
        asked.set_flow_run_state(wanted, State(type=StateType.RUNNING), force=True)
        asked.set_flow_run_state(wanted, State(type=StateType.CRASHED), force=True)
        assert "left to a person" in crashed.restart(wanted.hex).said
