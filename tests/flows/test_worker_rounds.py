"""A worker of many runs, failures by trial, full disks, and sources whose rows have changed."""

import errno
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from dept.trial import MULTITASK
from flows import transfer, work
from flows.execution import mixing, record, testing
from flows.execution import work as working
from flows.execution.lease import LeaseLostError
from flows.execution.settle import settle, work_here
from flows.planning.trials import source_specs
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from tasks.load import load_splits


def test_a_run_that_cannot_be_joined_hides_no_other(begin, capsys, monkeypatch, tmp_path):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    specs = source_specs(plan, context.inputs)
    gone = context.order.model_dump(mode="json")
    gone["backbone"] = str(tmp_path / "nowhere")
    broken = context.ledger.begin_run("broken", gone)
    other = specs[0].model_copy(update={"seed": 5})
    context.ledger.add([other], broken, "sources")
    context.ledger.add(specs, context.run_id, "sources")
    closed = []
    monkeypatch.setattr("flows.execution.context.RunContext.close", lambda self, clean=True: closed.append(self.run_id))
    assert work.run() == 1
    assert context.ledger.get(specs[0].fingerprint).status == "finished"
    assert context.ledger.get(other.fingerprint).status == "pending"
    assert f"Run {broken[:12]} is left to others" in capsys.readouterr().err
    assert closed == [context.run_id]
    with pytest.raises(InputError, match="nowhere"):
        work.run(broken)


def test_a_worker_with_another_mlflow_is_refused(begin, monkeypatch, tmp_path):
    """It would log into a store where nobody looks, below a run that is not there."""
    context, _ = begin(strategies=["source:food"], sources=["food"])
    work.join(context.ledger, context.run_id)
    file = tmp_path / "other" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with pytest.raises(InputError, match=r"does not hold run \w+, .*Remedy: set MLFLOW_TRACKING_URI"):
        work.join(context.ledger, context.run_id)


def test_a_run_whose_controller_was_killed_is_ended(begin, capsys):
    context, _ = begin(strategies=["source:food"], sources=["food"])
    code = "import psutil; from infra.identity import process_id; print(process_id())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    with context.ledger.engine.begin() as connection:
        connection.exec_driver_sql("update dept_runs set owner = ? where run_id = ?", (dead, context.run_id))
    assert not context.ledger.end_run(context.run_id, "killed", owner=process_id())  # as it was read before
    assert context.ledger.run(context.run_id).status == "running"
    assert work.run() == 0
    assert context.ledger.run(context.run_id).status == "killed"
    assert "its controller is gone" in capsys.readouterr().err


def test_failures_of_one_label_are_all_told_and_fresh_ones_are_fresh(begin):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (spec,) = source_specs(plan, context.inputs)
    rates = [spec.model_copy(update={"training": spec.training.model_copy(update={"lr_prompt": r})}) for r in (0.1, 2)]

    def workers(context):
        for claim in context.ledger.claim(process_id(), run_id=context.run_id, lease_seconds=60):
            context.ledger.fail(claim, f"rate {claim.spec.training.lr_prompt}")
        return 1

    settled = settle(context, "rates", rates, workers)
    assert settled.failed == {rates[0].fingerprint: "rate 0.1", rates[1].fingerprint: "rate 2.0"}
    assert sorted(settled.told.values()) == ["rate 0.1", "rate 2.0"]
    assert settle(context, "rates", rates, workers).failed == settled.failed  # as `control` goes through stages again
    again, _ = begin(strategies=["source:food"], sources=["food"])
    assert all("it failed before" in reason for reason in settle(again, "rates", rates, workers).failed.values())


def test_a_worker_that_lost_its_lease_begins_with_a_new_session(begin, monkeypatch):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    specs = source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    first, do = [], working._do

    def lost(context, lease, claims):
        if not first:
            first.append(context.backbone)
            raise LeaseLostError("1 trials are held by another worker")
        assert context.backbone is not first[0]  # a session of ranks that were killed would be of no use
        do(context, lease, claims)

    monkeypatch.setattr(working, "_do", lost)
    assert work_here(context) == 2
    assert {row.status for row in context.ledger.find()} == {"finished"}


def test_a_full_disk_is_one_line(begin, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    context, plan = begin(strategies=["source:food"], sources=["food"])
    specs = source_specs(plan, context.inputs)

    def train(*_, **__):
        raise full

    monkeypatch.setattr("flows.execution.engines.train", train)
    with pytest.raises(InputError, match=r"cannot write .*checkpoints.*No space left.*Remedy"):
        settle(context, "sources", specs)
    monkeypatch.setattr("flows.transfer.write_report", train)
    with pytest.raises(InputError, match=r"cannot write .*reports.*No space left.*Remedy"):
        transfer.report(context, plan, transfer.Done(), [], "2026-01-01T00:00:00+00:00")
    assert {row.status for row in context.ledger.find()} == {"pending"}


def test_a_multitask_adapter_is_not_trained_on_rows_that_have_changed(begin, tmp_path):
    context, plan = begin(strategies=["multitask"])
    (spec,) = [one for one in source_specs(plan, context.inputs) if one.task == MULTITASK]
    file = tmp_path / "service.csv"
    file.write_text(file.read_text() + "the service was altogether new and good,yes\n")
    context.splits = {**context.splits, "service": load_splits(context.tasks["service"])}
    (reason,) = settle(context, "sources", [spec]).failed.values()
    assert "have changed" in reason


def test_a_kill_loses_no_mixture_that_was_learned(begin, monkeypatch):
    context, plan = begin(strategies=["mixture"], seeds=[0, 1])
    learned, close = [], record.close

    def killed(context, lease, done):
        close(context, lease, done)
        learned.append(done)
        if len(learned) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(mixing, "close", killed)
    with pytest.raises(KeyboardInterrupt):
        transfer.stages(context, plan, work_here)
    assert len(context.ledger.find(kind="mixture", status="finished")) == 2


def test_a_kill_loses_no_test_that_was_made(begin, monkeypatch):
    context, plan = begin(strategies=["source:food"], sources=["food"], seeds=[0, 1, 2])
    measured, counted = testing.measured, []

    def killed(*told):
        counted.append(told)
        if len(counted) == 3:
            raise KeyboardInterrupt
        return measured(*told)

    monkeypatch.setattr(testing, "measured", killed)
    with pytest.raises(KeyboardInterrupt):
        transfer.stages(context, plan, work_here)
    tested = [row for row in context.ledger.find(kind="train", status="finished") if row.outcome["test"]]
    assert len(tested) == 2


def test_checkpoints_of_another_ledger_in_the_same_home_stay(begin):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    specs = source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    folder = home() / "checkpoints"
    folder.mkdir(parents=True)
    for name, key in (("theirs", "f" * 64), ("mine", specs[0].fingerprint)):
        file = folder / f"{name}.safetensors"
        save_file({"x": torch.zeros(1)}, file, metadata={"state": json.dumps({"keys": [key], "identities": [key]})})
    assert working.work(context) == 1
    assert [file.name for file in folder.iterdir()] == ["theirs.safetensors"]
