"""Three hosts without a common folder finish one plan: all that they share are the ledger, the store and MLflow."""

import os

import pytest

from flows.planning.plan_file import load_plan
from infra.prefect_api import client
from registry.ledger import Ledger
from registry.promotion.lookup import all_champions
from registry.store import Store
from registry.tracking import Tracker
from tests.flows.pool_helpers import deploy, finished, hosts_can_be_played, served
from tests.servers import MlflowServer

HOSTS = ("dept-one", "dept-two")


@pytest.mark.timeout(900)
def test_three_hosts_that_share_no_folder_finish_one_plan(
    prefect_url, postgres, s3, make_plan, tmp_path, tmp_path_factory, tiny_folders, monkeypatch
):
    if not hosts_can_be_played():
        pytest.skip("no host names and mounts of its own here: needs root and unshare")
    plan = load_plan(make_plan(seeds=[0, 1], strategies=["scratch", "best-source"], probe_steps=0, test_rows=4))
    ids = deploy(prefect_url, worker="tests/flows/slow_worker.py:dept_work")
    mlflow = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    mlflow.start()
    shared = {
        **s3.environment,
        "DEPT_LEDGER_URL": postgres.url(),
        "DEPT_STORE": s3.bucket(),
        "MLFLOW_TRACKING_URI": mlflow.uri,
        "DEPT_LINGER_SECONDS": "30",
    }
    places = {name: tmp_path_factory.mktemp(name) for name in ("dept-control", *HOSTS)}
    logs = {name: tmp_path / f"{name}.log" for name in places}

    def host(name, pool, **more):
        # tmp_path has the rows of the own tasks; only the controller's host has it.
        others = [folder for other, folder in places.items() if other != name]
        hidden = [*others, *([tmp_path] if pool == "gpu" else [])]
        own = {"DEPT_HOME": str(places[name] / "home"), "DEPT_LOCKS": str(places[name] / "locks")}
        return served(prefect_url, logs[name], [pool], name, hidden, limit=1, **shared, **own, **more)

    roots = os.pathsep.join(map(str, (tmp_path, tiny_folders["llama"].parent)))
    try:
        with (
            host("dept-control", "control", DEPT_PLAN_ROOTS=roots),
            host(HOSTS[0], "gpu"),
            host(HOSTS[1], "gpu"),
            client(prefect_url) as asked,
        ):
            parameters = {"plan": plan.model_dump(mode="json"), "workers": 2}
            run = asked.create_flow_run_from_deployment(ids["fewshot"], parameters=parameters)
            state = finished(prefect_url, run.id)
            assert state.is_completed(), "\n".join(log.read_text()[-3000:] for log in logs.values())
            for name, value in shared.items():
                monkeypatch.setenv(name, value)
            ledger, tracker, store = Ledger.open(), Tracker(), Store.open()
            rows = ledger.find()
            assert {row.status for row in rows} == {"finished"}
            assert {row.attempt for row in rows} == {1}
            assert {row.provenance["host"] for row in rows if row.provenance} == set(HOSTS)
            assert sorted(one.task for one in all_champions(ledger, tracker)) == sorted(plan.sources + plan.targets)
            assert all(store.exists(row.adapter_key) for row in rows if row.adapter_key)
            runs = tracker.client.search_runs([tracker.experiment_id], "tags.kind = 'trial'")
            assert len(runs) == len({one.data.tags["fingerprint"] for one in runs})
            assert store.names("rows")  # of the own tasks
            # No host has an adapter or rows but as a copy that it fetched.
            assert not any((folder / "home" / "store").exists() for folder in places.values())
    finally:
        mlflow.stop()
