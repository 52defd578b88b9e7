"""kill -9 at random moments: the next run goes on, trains nothing twice and loses nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from dept.adapters.adapter import Adapter
from flows.planning.trials import target_specs
from registry.ledger import Ledger
from registry.tracking import Tracker
from tests.flows.test_worker import wait_for, worker
from tests.soak import Fire

KILLS = 10
SMALL_GROUPS = "from flows.execution import work; work.GROUP = 2"
ROOT = Path(__file__).resolve().parents[2]


def start(plan, home, url, log):
    environment = {**os.environ, "DEPT_HOME": str(home), "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", str(plan)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def done_now(home, monkeypatch):
    """Fingerprint -> what may not change any more: a trained adapter's file, the attempt of a finished probe."""
    if not (home / "ledger.db").exists():
        return {}
    monkeypatch.setenv("DEPT_HOME", str(home))
    found = {}
    for row in Ledger.open().find():
        if row.status == "finished" and not row.adapter_key:
            found[row.fingerprint] = row.attempt  # a probe keeps no adapter
        elif row.status in ("trained", "finished"):
            file = home / "store" / row.adapter_key / "adapter.safetensors"
            found[row.fingerprint] = (file.stat().st_mtime_ns, Adapter.load(file.parent).sha256)
    return found


def check_whole(home, reference, monkeypatch):
    """Every trial finished, one closed MLflow run each, whole adapters, the numbers of an undisturbed run."""
    monkeypatch.setenv("DEPT_HOME", str(home))
    rows = Ledger.open().find()
    assert {row.status for row in rows} == {"finished"}
    tracker = Tracker()
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=5000)
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    trained = sorted(row.fingerprint for row in rows if row.kind == "train")
    assert sorted(run.data.tags["fingerprint"] for run in trials) == trained
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert "RUNNING" not in {run.info.status for run in runs}
    assert {row.kind for row in rows} == {"train", "probe", "mixture"}
    mine = {row.trial_spec.label: home / "store" / row.adapter_key for row in rows if row.adapter_key}
    assert mine.keys() == reference.keys()
    for label, folder in mine.items():
        ours, theirs = Adapter.load(folder), Adapter.load(reference[label])
        for name in ("prompt", "a", "b"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_random_moments(prefect_url, make_plan, tmp_path, monkeypatch):
    plan = make_plan(seeds=[0], strategies=["scratch", "best-source", "mixture", "similar"], probe_steps=2)
    log = tmp_path / "log.txt"
    began = time.monotonic()
    assert start(plan, tmp_path / "reference", prefect_url, log).wait(timeout=300) == 0, log.read_text()
    whole = time.monotonic() - began
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "reference"))
    reference = {
        row.trial_spec.label: tmp_path / "reference" / "store" / row.adapter_key
        for row in Ledger.open().find()
        if row.adapter_key
    }
    draw, kills, homes, moments = random.Random(20261124), 0, 0, []
    while kills < KILLS:
        home, before = tmp_path / f"home{homes}", {}
        homes += 1
        for attempt in range(KILLS + 1):
            run = start(plan, home, prefect_url, log)
            if kills < KILLS and attempt < KILLS // 2:  # so two runs are killed five times each, and end
                # Most of a run is imports, which nothing can go wrong in; a third of the kills may fall there.
                moment = draw.uniform(0.25, 1.0) * whole
                try:
                    code = run.wait(timeout=moment)
                except subprocess.TimeoutExpired:
                    run.send_signal(signal.SIGKILL)
                    run.wait()
                    kills += 1
                    moments.append(round(moment, 1))
                    now = done_now(home, monkeypatch)
                    assert before.items() <= now.items(), "a trained adapter was lost or trained again"
                    before = now
                    continue
            else:
                code = run.wait(timeout=300)
            assert code == 0, log.read_text()
            assert before.items() <= done_now(home, monkeypatch).items()
            check_whole(home, reference, monkeypatch)
            break
    print(json.dumps({"kills": kills, "homes": homes, "moments": moments, "whole": round(whole, 1)}))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_soak(postgres, begin, tmp_path, monkeypatch):
    """`make soak` in small: workers that die and hang, on PostgreSQL; each trial is finished once, with one run."""
    monkeypatch.setenv("DEPT_LEDGER_URL", postgres.url())
    seeds, steps = list(range(6)), {"steps": 30, "batch_size": 4, "eval_every": 10}
    context, plan = begin(seeds=seeds, sources=[], strategies=["scratch"], scratch_training=steps)
    specs = target_specs(plan, context.inputs, {})
    context.ledger.add(specs, context.run_id, "targets")
    fire, log, over = Fire(kills=3, stops=1, lease=2.0), tmp_path / "log", threading.Event()

    def keep_going():
        alive = []
        while not over.is_set():
            alive = [one for one in alive if one.poll() is None]
            alive += [worker(context, log, SMALL_GROUPS) for _ in range(2 - len(alive))]
            over.wait(0.2)
        for one in alive:
            one.kill()
            one.wait()

    keeper = threading.Thread(target=keep_going)
    keeper.start()
    try:
        fire.rage(pause=1.0)
        wait_for(lambda: fire.left() == 0, 400)
    finally:
        over.set()
        keeper.join()
    figures = fire.check()
    assert figures["trials"] == len(specs)
    assert figures["kill"] == 3, log.read_text()[-3000:]
    assert max(figures["attempts"]) > 1  # some were taken over


@pytest.mark.timeout(300)
def test_a_dead_rank_ends_the_run_and_its_trials_are_pending_again(prefect_url, make_plan, tmp_path, monkeypatch):
    plan = make_plan(engine="deepspeed", source_training={"steps": 100_000, "batch_size": 4, "patience": None})
    home, log = tmp_path / "home", tmp_path / "log.txt"
    run = start(plan, home, prefect_url, log)
    try:
        reports = []
        while len(reports) < 2:
            assert run.poll() is None, log.read_text()
            time.sleep(0.2)
            reports = sorted(home.glob("jobs/*/ranks/*.json"))
        pids = [json.loads(report.read_text())["pid"] for report in reports]
        held = [json.loads(report.read_text()) for report in reports]
        assert all(abs(2 * part["held"] - part["total"]) <= 64 for part in held), "each rank holds half"
        monkeypatch.setenv("DEPT_HOME", str(home))
        while not any(row.status == "running" for row in Ledger.open().find()):
            time.sleep(0.2)
        time.sleep(2)
        os.kill(pids[1], signal.SIGKILL)
        killed = time.monotonic()
        while psutil.pid_exists(pids[0]):
            assert time.monotonic() - killed < 10, "the other rank lives on"
            time.sleep(0.1)
        assert run.wait(timeout=60) == 1
    finally:
        run.kill()
        run.wait()
    assert {row.status for row in Ledger.open().find()} == {"pending"}
    assert "a rank died" in log.read_text()
    assert "Traceback" not in log.read_text()
