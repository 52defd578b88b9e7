"""`dept submit`: a plan goes to the pools with its rows; what `dept run` refuses is not sent; its end is told."""

import contextlib
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prefect.client.schemas.objects import State, StateType
from typer.testing import CliRunner

from flows.cli.main import app
from flows.execution.open import open_plan
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan
from flows.planning.roots import check_paths
from flows.transfer import dept_transfer
from infra import submitted
from infra.errors import InputError
from infra.prefect_api import client
from registry.ledger import Ledger
from registry.store import Store


@pytest.fixture
def deployed(prefect_url, tiny_folders, monkeypatch):
    """The deployment, with nobody to take its runs."""
    from prefect.utilities.callables import parameter_schema

    monkeypatch.setenv("DEPT_PLAN_ROOTS", str(tiny_folders["llama"].parent))
    with client(prefect_url) as asked:
        flow = asked.create_flow_from_name("dept-transfer")
        schema = parameter_schema(dept_transfer).model_dump_for_openapi()
        yield asked, asked.create_deployment(flow, "fewshot", tags=["dept"], parameter_openapi_schema=schema)


def runs(asked, deployment):
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    return asked.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))


def test_a_plan_is_sent_with_its_rows_and_another_machine_reads_them(deployed, make_plan, tmp_path, monkeypatch):
    asked, deployment = deployed
    plan = make_plan()
    done = CliRunner().invoke(app, ["submit", str(plan), "--set", "shots=[2]", "--workers", "2", "--restart"])
    assert done.exit_code == 0, done.output
    (run,) = runs(asked, deployment)
    assert str(run.id) in done.stdout
    assert f"/runs/flow-run/{run.id}" in done.stderr
    assert run.name == "tiny"  # until it begins
    assert set(run.tags) == {"dept", "tiny"}
    assert run.parameters["workers"] == 2
    assert run.parameters["restart"] is True
    sent = Plan.model_validate(run.parameters["plan"])
    assert sent.shots == [2]
    here = open_plan(sent)
    for noun in ("food", "service", "film", "plot"):
        (tmp_path / f"{noun}.csv").unlink()  # as on a machine that never had them
        assert Store.open().exists(f"rows/{sent.stored[noun]}")
    check_paths(sent)  # no path of it is read
    there = open_plan(sent)
    assert {name: rows.data_hash for name, rows in there.splits.items()} == {
        name: rows.data_hash for name, rows in here.splits.items()
    }
    assert set(Ledger.open().own_tasks()) == {"food", "service", "film", "plot"}


def test_what_run_would_refuse_is_refused_before_anything_is_sent(deployed, make_plan, tmp_path, monkeypatch):
    asked, deployment = deployed
    before = len(runs(asked, deployment))
    (tmp_path / "gone").mkdir()
    for wrong, said in (({"shots": [60]}, "task film"), ({"backbone": str(tmp_path / "gone")}, "gone")):
        done = CliRunner().invoke(app, ["submit", str(make_plan(**wrong))])
        assert done.exit_code == 2
        assert said in done.stderr
    monkeypatch.setenv("DEPT_PLAN_ROOTS", str(tmp_path / "elsewhere"))
    done = CliRunner().invoke(app, ["submit", str(make_plan())])
    assert done.exit_code == 2
    assert "backbone: outside the folders" in done.stderr
    assert len(runs(asked, deployment)) == before
    sent = load_plan(make_plan()).model_copy(update={"stored": {"film": "0" * 64}})
    with pytest.raises(InputError, match="rows/0000"):  # they are nowhere, and no other rows are taken for them
        open_plan(sent)


@pytest.mark.parametrize(
    ("last", "code"), [(StateType.COMPLETED, 0), (StateType.FAILED, 1), (StateType.CANCELLED, 130)]
)
def test_watch_ends_as_the_run_ends(deployed, make_plan, monkeypatch, last, code):
    monkeypatch.setattr(submitted, "LOOK_SECONDS", 0.2)
    asked, deployment = deployed
    known = {run.id for run in runs(asked, deployment)}

    def carry_out():
        with client(str(asked.api_url)) as mine:
            deadline = time.monotonic() + 60
            while not (fresh := [run for run in runs(mine, deployment) if run.id not in known]):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            run = fresh[0].id
            mine.set_flow_run_state(run, State(type=StateType.RUNNING), force=True)
            line = {"name": "prefect", "level": 20, "message": "half of it", "flow_run_id": str(run)}
            mine.request("POST", "/logs/", json=[line | {"timestamp": "2026-11-26T10:00:00Z"}])
            time.sleep(1)
            mine.set_flow_run_state(run, State(type=last, message="as it came"), force=True)

    other = threading.Thread(target=carry_out)
    other.start()
    done = CliRunner().invoke(app, ["submit", str(make_plan()), "--watch"])
    other.join()
    assert done.exit_code == code, done.output
    assert done.stdout.count("half of it") == 1
    assert f"is {last.value.capitalize()}: as it came" in done.stdout


def test_watch_bears_a_server_that_is_away_and_tells_every_line(monkeypatch):
    monkeypatch.setattr(submitted, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(submitted, "LAST_LINES_SECONDS", 0.0)
    now, looks, told = datetime(2026, 11, 26, 10, tzinfo=UTC), [], []
    lines = [
        SimpleNamespace(id=uuid.uuid4(), message=f"line {n}", timestamp=now + timedelta(0, n // 450))
        for n in range(500)
    ]

    class Server:
        def read_flow_run(self, run):
            looks.append(run)
            if len(looks) in (2, 3):
                raise ConnectionError("refused")
            state = State(type=StateType.RUNNING if len(looks) == 1 else StateType.COMPLETED)
            return SimpleNamespace(name="mine", state=state, run_count=1)

        def read_logs(self, log_filter, limit, sort, offset=0):
            after = log_filter.timestamp and log_filter.timestamp.after_
            there = lines[: 7 if len(looks) == 1 else None]
            return [line for line in there if not after or line.timestamp >= after][offset : offset + limit]

    monkeypatch.setattr(submitted, "client", lambda api: contextlib.nullcontext(Server()))
    assert submitted.follow("http://x/api", str(uuid.uuid4()), told.append) == "COMPLETED"
    assert [line for line in told if line.startswith("  ")] == [f"  {line.message}" for line in lines]
    assert sum("does not answer (refused)" in line for line in told) == 1
    monkeypatch.setattr(submitted, "AWAY_SECONDS", -1.0)
    looks[:] = [0]
    with pytest.raises(ConnectionError):
        submitted.follow("http://x/api", str(uuid.uuid4()), told.append)
