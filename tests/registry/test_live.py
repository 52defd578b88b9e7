"""Curves on MLflow's pages while trials train: one run an attempt, each point once and at its own time."""

import time

import pytest

from registry.tracking import TrialLog, live
from tests.registry.registry_helpers import make_spec
from tests.registry.tracking_helpers import Lossy, trial

CURVE = [(step, 1.0 / (step + 1)) for step in range(60)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(live, "AFTER", 0.05)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")


def wait_for(found, seconds=60):
    until = time.monotonic() + seconds
    while not (got := found()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return got


def runs_of(tracker, spec):
    return tracker.trials.of(spec.fingerprint)


def history(tracker, run_id, key="curve/train_loss"):
    points = tracker.client.get_metric_history(run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def test_a_run_is_there_while_its_trial_trains_and_is_the_one_that_is_closed(local, tmp_path):
    outcome, folder = trial(tmp_path, loss_curve=CURVE, validation_curve=[], validation_loss_curve=[])
    spec, began = outcome.spec, time.time() - 100
    shown = local.live("", {"k": (spec, 1)}, {"device": "cpu"})
    for step, value in CURVE[:40]:
        shown.point("k", "loss", step, value, began + step)
    (run,) = wait_for(lambda: [run for run in runs_of(local, spec) if run.data.metrics])
    assert (run.info.status, run.data.params["task"], run.data.tags["provenance.device"]) == (
        "RUNNING",
        spec.task,
        "cpu",
    )
    assert [step for step, *_ in history(local, run.info.run_id)] == list(range(40))
    for step, value in CURVE[40:]:
        shown.point("k", "loss", step, value, began + step)
    begun = shown.hand_over("k")
    shown.point("k", "loss", 60, 9.0, began)  # too late: it has been handed over
    shown.close()
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 1, folder, begun=begun)]).values()
    assert run_id == run.info.run_id
    (closed,) = runs_of(local, spec)
    assert (closed.info.status, closed.data.tags["adapter_sha256"]) == ("FINISHED", outcome.adapter_sha256)
    told = [(step, value, int((began + step) * 1000)) for step, value in CURVE]
    assert history(local, run_id) == told  # each once, at its own time
    assert closed.info.end_time >= told[-1][2]


def test_one_that_trained_shortly_has_its_times_and_no_request_more(local, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "AFTER", 60.0)
    outcome, folder = trial(tmp_path, loss_curve=CURVE[:3])
    began = time.time()
    shown = local.live("", {"k": (outcome.spec, 1)}, {})
    for step, value in CURVE[:3]:
        shown.point("k", "loss", step, value, began + step)
    begun = shown.hand_over("k")
    shown.close()
    local.client = Lossy(local.client)
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 1, folder, begun=begun, ended=began + 5)]).values()
    assert local.client.calls == ["create_run", "log_batch", "set_terminated"]
    assert [at for *_, at in history(local, run_id)] == [int((began + step) * 1000) for step in range(3)]


def test_what_is_not_handed_over_is_deleted_with_its_attempt(local):
    spec = make_spec()
    shown = local.live("", {"k": (spec, 1)}, {})
    shown.point("k", "loss", 0, 1.0, time.time())
    wait_for(lambda: runs_of(local, spec))
    shown.close()
    assert wait_for(lambda: not runs_of(local, spec))
    left = local.client.create_run(local.experiment_id, tags={"fingerprint": spec.fingerprint, "attempt": "1"})
    shown = local.live("", {"k": (spec, 2)}, {})  # a killed process left one
    shown.point("k", "loss", 0, 1.0, time.time())
    (run,) = wait_for(lambda: [run for run in runs_of(local, spec) if run.data.tags["attempt"] == "2"])
    assert local.client.get_run(left.info.run_id).info.lifecycle_stage == "deleted"
    assert [one.info.run_id for one in runs_of(local, spec)] == [run.info.run_id]
    shown.close()


def test_training_waits_for_no_answer(local, monkeypatch):
    spec = make_spec()

    class Away(Lossy):
        def __getattr__(self, name):
            if name == "log_batch":
                raise ConnectionError("away")
            return super().__getattr__(name)

    whole = local.client
    shown = local.live("", {"k": (spec, 1)}, {})
    shown.client = Away(whole)
    began = time.monotonic()
    for step in range(2000):
        shown.point("k", "loss", step, 1.0, time.time())
    assert time.monotonic() - began < 5
    wait_for(lambda: runs_of(local, spec))
    shown.client = whole
    assert wait_for(lambda: len(history(local, runs_of(local, spec)[0].info.run_id)) == 2000), "what waited goes later"
    shown.close()


def test_one_that_goes_on_from_a_checkpoint_began_earlier(local, tmp_path):
    outcome, folder = trial(tmp_path, loss_curve=CURVE, validation_curve=[], validation_loss_curve=[])
    shown = local.live("", {"k": (outcome.spec, 2)}, {})
    now = time.time()
    shown.restored("k", {"loss_curve": CURVE[:30]}, 300.0)
    for step, value in CURVE[30:]:
        shown.point("k", "loss", step, value, now + step)
    begun = shown.hand_over("k")
    shown.close()
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 2, folder, begun=begun, ended=now + 60)]).values()
    told = history(local, run_id)
    assert [step for step, *_ in told] == list(range(60))
    assert [at for *_, at in told] == sorted(at for *_, at in told)
    assert 290_000 < told[29][2] - begun.start < 310_000
