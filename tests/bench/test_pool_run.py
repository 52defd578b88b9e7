"""`prefect deployment run dept-transfer/fewshot`: a controller in one pool, its workers in another, for real."""

import pytest

from infra.prefect_api import client
from registry.ledger import Ledger
from tests.flows.pool_helpers import deploy, finished, served, wait_for

NOTE = """
import atexit, os, sys
from pathlib import Path
atexit.register(lambda: Path({folder!r}, str(os.getpid())).write_text("torch" if "torch" in sys.modules else "none"))
"""


@pytest.mark.timeout(900)
def test_a_plan_is_carried_out_by_workers_of_another_pool(prefect_url, make_plan, tmp_path, tiny_folders):
    from flows.planning.plan_file import load_plan

    plan = load_plan(make_plan(sources=["food"], targets=["film"], seeds=[0, 1], test_rows=4))
    ids = deploy(prefect_url, limit=3)
    log, notes = tmp_path / "served.log", tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "sitecustomize.py").write_text(NOTE.format(folder=str(notes)))
    roots = f"{tmp_path}:{tiny_folders['llama'].parent}"
    with (
        served(prefect_url, log, DEPT_PLAN_ROOTS=roots, DEPT_LINGER_SECONDS="20", lead=tmp_path),
        client(prefect_url) as asked,
    ):
        parameters = {"plan": plan.model_dump(mode="json"), "workers": 1}
        run = asked.create_flow_run_from_deployment(ids["fewshot"], parameters=parameters)
        state = finished(prefect_url, run.id)
        assert state.is_completed(), log.read_text()[-4000:]
        runs = [one for one in asked.read_flow_runs() if one.deployment_id == ids["worker"]]
        assert len(runs) == 1  # it stayed for the next stages, and none was started anew
        assert finished(prefect_url, runs[0].id, 60).is_completed()
        (task,) = [one for one in asked.read_task_runs() if one.id == runs[0].parent_task_run_id]
        assert task.flow_run_id == run.id  # a subflow, which the page of the controller shows
        assert task.state.is_completed()
        ledger = Ledger.open()
        (controller,) = [row.owner.rsplit(":", 2)[1] for row in ledger.runs()]
        wait_for((notes / controller).is_file)
    assert (notes / controller).read_text() == "none"  # a controller loads no backbone
    assert ledger.counts().keys() == {"finished"}
    assert controller not in {str(row.provenance["pid"]) for row in ledger.find() if row.provenance}
