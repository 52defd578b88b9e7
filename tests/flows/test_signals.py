"""Workers that are told to end, or stopped for a while: what they hold is given back, and they say so."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from flows.execution.context import Engine
from flows.execution.settle import settle
from flows.planning.trials import source_specs
from infra.settings import home
from tests.dept.test_sharded import processes_of
from tests.flows.test_worker import ROOT, held, runs_of, stop_between_writes, wait_for, worker

LONG = {"steps": 100_000, "batch_size": 4, "eval_every": 50_000}


@pytest.mark.parametrize("how", ["SIGTERM", "its run is ended"])
def test_a_worker_that_is_told_to_end_gives_its_trials_back(begin, tmp_path, how):
    context, plan = begin(source_training=LONG)
    context.ledger.add(source_specs(plan, context.inputs), context.run_id, "sources")
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "work", "--run", context.run_id],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: {row.status for row in context.ledger.find()} == {"running"})
        if how == "SIGTERM":
            worker.terminate()
        else:
            context.ledger.end_run(context.run_id, "killed")
        assert worker.wait(timeout=60) == (143 if how == "SIGTERM" else 0), log.read_text()
    finally:
        worker.kill()
        worker.wait()
    said = (
        "Stopped by SIGTERM. What was finished is kept" if how == "SIGTERM" else "is killed: its controller has ended"
    )
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
    assert {(row.status, row.owner) for row in context.ledger.find()} == {("pending", None)}


@pytest.mark.timeout(300)
def test_a_stopped_worker_with_ranks_wakes_late_and_harms_nothing(begin, tmp_path):
    """Its ranks go on while it is stopped: what they make of trials that another holds by then is dropped."""
    context, plan = begin(engine="deepspeed", source_training=LONG | {"steps": 60, "eval_every": 30})
    specs = source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    log = tmp_path / "log"
    late = worker(context, log)
    try:
        wait_for(lambda: any(home().glob("jobs/*/progress.json")))
        stop_between_writes(late)
        assert {row.status for row in context.ledger.find()} == {"running"}
        time.sleep(2.5)  # a lease
        done = settle(replace(context, engine=Engine()), "sources", specs)
        assert len(done.outcomes) == 2
        before = held(context)
        late.send_signal(signal.SIGCONT)
        assert late.wait(timeout=120) == 0, log.read_text()
    finally:
        late.kill()
        late.wait()
    assert "2 trials are held by another worker: this worker was silent for more than 2 s" in log.read_text()
    assert held(context) == before
    assert {attempt for attempt, *_ in before.values()} == {2}
    assert runs_of(context) == sorted(spec.fingerprint for spec in specs)
    assert not [process for folder in home().glob("jobs/*") for process in processes_of(folder)]
