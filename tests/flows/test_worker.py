"""What is promised of a worker: nothing lost, nothing twice, nothing blocked, whatever happens to it or its files."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dept.adapters.adapter import Adapter
from flows import transfer
from flows.execution import training
from flows.execution.heal import LostError
from flows.execution.lease import Lease, LeaseLostError
from flows.execution.open import open_plan
from flows.execution.settle import settle, work_here
from flows.planning.plan_file import load_plan
from flows.planning.trials import source_specs
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
SLOW = (  # a step takes a tenth of a second
    "import time\nfrom flows.execution import engines, training\ntrain = engines.train\n"
    "def slow(*args, on_tokens, **rest):\n"
    "    return train(*args, on_tokens=lambda n: (time.sleep(0.1), on_tokens(n)), **rest)\n"
    "engines.train = slow\n"
)


def worker(context, log, code="", lease=2.0):
    """A worker in a process of its own, for one run; `code` runs before it begins."""
    environment = {**os.environ, "DEPT_LEASE_SECONDS": str(lease), "OMP_NUM_THREADS": "1"}
    body = f"import torch; torch.set_num_threads(1)\n{code}\nfrom flows.work import run\nrun({context.run_id!r})"
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-c", body], cwd=ROOT, env=environment, stdout=out, stderr=out)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def stop_between_writes(process):
    """SIGSTOP, but not within a transaction: SQLite has one writer, and a stopped one would hold the file for ever."""
    for _ in range(50):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(home() / "ledger.db", timeout=0.2, isolation_level=None)) as connection,
        ):
            connection.execute("begin immediate")
            connection.execute("rollback")
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError("it writes all the time")


def runs_of(context):
    found = context.tracker.client.search_runs([context.tracker.experiment_id], "tags.kind = 'trial'")
    return sorted(run.data.tags["fingerprint"] for run in found)


def held(context):
    return {row.fingerprint: (row.attempt, row.adapter_sha256, row.mlflow_run_id) for row in context.ledger.find()}


def test_a_stopped_worker_that_wakes_late_harms_nothing(begin, tmp_path, monkeypatch):
    context, plan = begin(source_training={"steps": 60, "batch_size": 4, "eval_every": 30, "patience": None})
    log, specs = tmp_path / "log", source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    other = worker(context, log, SLOW)
    try:
        wait_for(lambda: any(row.status == "running" for row in context.ledger.find()))
        wait_for(lambda: context.ledger.find()[0].lease_until is not None)
        time.sleep(3)  # it trains
        stop_between_writes(other)
        assert not any(row.status == "finished" for row in context.ledger.find())
        done = settle(context, "sources", specs)
        assert len(done.outcomes) == 2
        before = {
            row.fingerprint: (row.attempt, row.adapter_sha256, row.mlflow_run_id) for row in context.ledger.find()
        }
        other.send_signal(signal.SIGCONT)
        assert other.wait(timeout=120) == 0, log.read_text()
    finally:
        other.kill()
        other.wait()
    assert "held by another worker" in log.read_text()
    after = held(context)
    assert after == before
    assert {attempt for attempt, *_ in after.values()} == {2}
    assert runs_of(context) == sorted(spec.fingerprint for spec in specs)
    for row in context.ledger.find():
        assert Adapter.load(context.store.fetch(row.adapter_key)).sha256 == row.adapter_sha256


def test_a_loop_that_hangs_loses_its_trials(begin, tmp_path):
    context, plan = begin()
    log, specs = tmp_path / "log", source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    hang = (
        "import time\nfrom flows.execution import engines\n"
        "def hang(trials, backbone, *args, on_tokens=None, **rest):\n    on_tokens(1)\n    time.sleep(3600)\n"
        "engines.train = hang"
    )
    other = worker(context, log, hang)
    try:
        wait_for(lambda: any(row.status == "running" for row in context.ledger.find()))
        done = settle(context, "sources", specs)
        assert done.trained == {spec.fingerprint for spec in specs}  # by this process, all of them
        assert other.poll() is None  # it lives, and held them
    finally:
        other.kill()
        other.wait()
    # On a slow machine the other one may lose its lease, take a trial a second time, and hang only then.
    assert all(row.attempt >= 2 for row in context.ledger.find())


def test_only_progress_renews(begin):
    context, plan = begin()
    specs = source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    lease = Lease(context.ledger, context.ledger.claim(process_id(), run_id=context.run_id, lease_seconds=1.0), 1.0)
    time.sleep(1.1)
    taken = context.ledger.claim("elsewhere:1:2:3:4", 1, run_id=context.run_id, lease_seconds=60)
    assert [claim.attempt for claim in taken] == [2]
    with pytest.raises(LeaseLostError, match="1 trials are held by another worker"):
        lease.progress(7)
    (left,) = lease.claims
    assert left != taken[0].fingerprint
    lease.progress(7)  # the other one is still held
    lease.release()
    assert context.ledger.get(left).status == "pending"
    assert context.ledger.get(taken[0].fingerprint).status == "running"


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_a_lost_or_damaged_adapter_is_made_again_in_the_same_run(begin, capsys, damage):
    context, plan = begin(strategies=["scratch", "source:food"], sources=["food"])
    first = transfer.stages(context, plan, work_here)
    by_role = {outcome.spec.role: outcome for outcome in first.outcomes if outcome.spec.training.steps}
    keys = {role: outcome.adapter_key for role, outcome in by_role.items()}
    for key in keys.values():
        folder = context.store.fetch(key)
        if damage == "lost":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        else:
            file = folder / "adapter.safetensors"
            payload = bytearray(file.read_bytes())
            payload[-1] ^= 1
            file.write_bytes(bytes(payload))
    again, plan = begin(strategies=["scratch", "source:food"], sources=["food"])
    second = transfer.stages(again, plan, work_here)
    assert second.trained == {outcome.spec.fingerprint for outcome in by_role.values()}
    assert not second.failed
    assert [(o.spec.fingerprint, o.adapter_sha256) for o in second.outcomes] == [
        (o.spec.fingerprint, o.adapter_sha256) for o in first.outcomes
    ]
    said = capsys.readouterr().err
    assert said.count("It is made again.") == 2
    for role, key in keys.items():
        row = again.ledger.get(by_role[role].spec.fingerprint)
        assert row.adapter_key != key
        assert row.note
        assert Adapter.load(again.store.fetch(row.adapter_key)).sha256 == row.adapter_sha256
    aside = list(Path(again.store.root, "quarantine").glob("*")) if damage == "altered" else []
    assert len(aside) == (2 if damage == "altered" else 0)
    assert all(str(path) in said for path in aside)


def test_a_source_damaged_while_its_targets_wait_is_made_again(begin, monkeypatch):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    damaged = []

    def workers(context):
        if not damaged and context.ledger.find(role="target"):
            (row,) = context.ledger.find(role="source")
            damaged.append(row.adapter_key)
            (context.store.fetch(row.adapter_key) / "adapter.safetensors").write_bytes(b"cut short")
        return work_here(context)

    with pytest.raises(LostError, match="damaged"):
        transfer.stages(context, plan, workers)
    assert not transfer.stages(context, plan, workers).failed  # as `control` goes on
    assert {row.status for row in context.ledger.find()} == {"finished"}


def test_a_store_that_refuses_writes_ends_the_run_and_loses_nothing(begin, monkeypatch):
    monkeypatch.setenv("DEPT_STORE", "/proc/no-store")  # nobody can write there, root neither
    context, plan = begin(strategies=["scratch"])
    with pytest.raises(InputError, match=r"store .*cannot write"):
        transfer.stages(context, plan, work_here)
    rows = context.ledger.find()
    assert {row.status for row in rows} == {"pending"}
    assert all(row.error is None for row in rows)
    monkeypatch.delenv("DEPT_STORE")
    again, plan = begin(strategies=["scratch"])
    done = transfer.stages(again, plan, work_here)
    assert not done.failed
    assert len(done.trained) == len(rows)


def test_a_plan_of_another_name_goes_on_from_the_checkpoint(begin, tmp_path, monkeypatch):
    recipe = {"steps": 60, "batch_size": 4, "eval_every": 30}
    context, plan = begin(source_training=recipe, strategies=["source:food"], sources=["food"])
    log, (spec,) = tmp_path / "log", source_specs(plan, context.inputs)
    context.ledger.add([spec], context.run_id, "sources")
    other = worker(context, log, f"{SLOW}training.CHECKPOINT_SECONDS = 0.5")
    checkpoints = Path(os.environ["DEPT_HOME"], "checkpoints")
    try:
        wait_for(lambda: any(checkpoints.rglob("*.safetensors")))
        time.sleep(2)
    finally:
        other.kill()
        other.wait()
    assert context.ledger.get(spec.fingerprint).status == "running"
    again, plan = begin(name="renamed", source_training=recipe, strategies=["source:food"], sources=["food"])
    advanced = []
    shown = training.bar

    @contextlib.contextmanager
    def bar(*what):
        with shown(*what) as made:
            advance = made.advance
            made.advance = lambda amount: (advanced.append(amount), advance(amount))
            yield made

    monkeypatch.setattr(training, "bar", bar)
    (outcome,) = settle(again, "sources", source_specs(plan, again.inputs)).outcomes
    assert outcome.steps_done == recipe["steps"]
    assert advanced[0] > 200  # the first thing that the bar is told is what was restored
    assert not any(checkpoints.rglob("*.safetensors"))


def test_what_is_trained_already_is_only_tested_and_logged(begin, monkeypatch):
    context, plan = begin(strategies=["scratch"], targets=["film"], sources=[])
    spec = transfer.target_specs(plan, context.inputs, {})
    context.ledger.add(spec, context.run_id, "targets")
    claims = context.ledger.claim(process_id(), run_id=context.run_id, lease_seconds=60)
    training.train_claims(context, Lease(context.ledger, claims, 60), claims)
    context.ledger.release(claims)
    assert {row.status for row in context.ledger.find()} == {"trained"}
    monkeypatch.setattr("flows.execution.engines.train", lambda *_, **__: pytest.fail("trained twice"))
    again, _ = begin(strategies=["scratch"], targets=["film"], sources=[])
    done = settle(again, "targets", spec)
    assert len(done.outcomes) == len(spec)
    assert not done.trained | done.others
    assert all(outcome.test for outcome in done.outcomes)


def test_three_runs_at_once(prefect_url, make_plan, tmp_path, monkeypatch):
    """Two of one plan, one of another that shares its sources; nothing is trained twice."""
    shared, other = make_plan(), tmp_path / "other.yaml"
    other.write_text(shared.read_text().replace("name: tiny", "name: other").replace("- film\n", ""))
    environment = {**os.environ, "PREFECT_API_URL": prefect_url, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("ab") as out:
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "run", str(plan)], cwd=ROOT, env=environment, stdout=out, stderr=out
            )
            for plan in (shared, shared, other)
        ]
        codes = [run.wait(timeout=300) for run in runs]
    assert codes == [0, 0, 0], log.read_text()
    ledger = Ledger.open()
    rows = ledger.find()
    assert {row.status for row in rows} == {"finished"}
    assert {row.attempt for row in rows} == {1}
    assert [run.status for run in ledger.runs()] == ["finished"] * 3
    context = open_plan(load_plan(shared))
    assert runs_of(context) == sorted(row.fingerprint for row in rows if row.kind == "train")


def test_a_controller_imports_no_torch():
    code = "import sys, flows.transfer, flows.work; print('torch' in sys.modules, 'transformers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
    assert torch is not None
