"""MLflow that loses answers or is away: nothing is made twice, and it is waited for."""

import logging
import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from infra.errors import InputError
from registry.tracking import Tracker, TrialLog
from registry.tracking import patience as patience_module
from registry.tracking.patience import LAST_SECONDS, Patience
from tests.registry.tracking_helpers import Lossy, log_trial, lossy_proxy, trial


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated"])
def test_an_answer_lost_after_the_request_makes_no_second_run(local, tmp_path, method):
    outcome, folder = trial(tmp_path)
    local.client = Lossy(local.client, method)
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    assert local.client.calls.count(method) == (1 if method == "create_run" else 2)
    (run,) = local.client.search_runs([local.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(local.client.get_metric_history(run_id, "curve/train_loss")) == 2  # sent twice, kept once


def test_a_parent_run_whose_answer_was_lost_is_found_again(local):
    local.client = Lossy(local.client, "create_run")
    run_id = local.open_flow_run("flow", {"plan": "demo"}, {})
    assert [run.info.run_id for run in local.client.search_runs([local.experiment_id])] == [run_id]


def test_what_is_made_elsewhere_is_looked_for_before_it_is_made_again(local):
    local.client = Lossy(local.client, "create_registered_model", "create_model_version", "delete_model_version")
    local.ask("create_registered_model", "m", found=lambda: local.client.get_registered_model("m"))
    made = local.ask(
        "create_model_version",
        "m",
        "file:///nowhere",
        found=lambda: next(iter(local.client.search_model_versions("name = 'm'")), None),
    )
    assert [version.version for version in local.client.search_model_versions("name = 'm'")] == [made.version]
    local.ask("delete_model_version", "m", made.version)  # the repetition finds nothing, which is no refusal
    assert local.client.search_model_versions("name = 'm'") == []


def test_a_server_that_loses_answers_gets_one_run(server, tmp_path):
    """The real way: a proxy hands each request on and cuts the connection instead of answering, once for each path."""
    with lossy_proxy(server) as (address, seen):
        tracker = Tracker(address, experiment=f"x{time.monotonic_ns()}")
        outcome, folder = trial(tmp_path)
        seen.lose |= {"/runs/create", "/runs/log-batch", "/runs/update"}
        (run_id,) = tracker.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
        assert not seen.lose
    direct = MlflowClient(server)
    (run,) = direct.search_runs([tracker.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(direct.get_metric_history(run_id, "curve/train_loss")) == 2


def test_a_server_behind_a_proxy_that_is_down_is_waited_for(server, tmp_path):
    """No connection, then pages of the proxy that say 503 and 502: none of them ends the run or makes a second one."""
    with lossy_proxy(server) as (address, seen):
        tracker = Tracker(address, experiment=f"x{time.monotonic_ns()}")
        outcome, folder = trial(tmp_path)
        seen.instead += ["cut", 503, 502]
        (run_id,) = tracker.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
        assert not seen.instead
        seen.instead += [403]
        with pytest.raises(MlflowException, match="403"):
            tracker.ask("get_run", run_id)  # a refusal: not asked again
        assert not seen.instead
    runs = MlflowClient(server).search_runs([tracker.experiment_id])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]


def test_mlflow_away_in_mid_run_is_waited_for_and_said_once(local, tmp_path, caplog):
    outcome, folder = trial(tmp_path)
    store, until, waits = local.client, time.monotonic() + 3.0, []

    class Away:
        def __getattr__(self, name):
            if time.monotonic() < until:
                return lambda *args, **kwargs: (_ for _ in ()).throw(ConnectionError("refused"))
            return getattr(store, name)

    local.client = Away()
    with caplog.at_level(logging.WARNING, "registry"):
        runs = local.log_trials(None, [TrialLog(outcome, 1, folder)], on_wait=lambda: waits.append(1))
    assert store.get_run(runs[outcome.spec.fingerprint]).info.status == "FINISHED"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("registry")]
    assert len(said) == 2
    assert "does not answer (refused); waiting" in said[0]
    assert "answers again" in said[1]
    assert waits  # so that leases can be renewed


def test_mlflow_on_a_postgresql_that_goes_away_and_comes_back(postgres, tmp_path):
    tracker = Tracker(postgres.url())
    outcome, folder = trial(tmp_path)
    parent = tracker.open_flow_run("flow", {}, {})
    postgres.stop()
    back = threading.Timer(3.0, postgres.start)
    back.start()
    try:
        (run_id,) = tracker.log_trials(parent, [TrialLog(outcome, 1, folder)]).values()
    finally:
        back.join()
    runs = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.kind = 'trial'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]
    assert len(tracker.client.get_metric_history(run_id, "curve/train_loss")) == 2


def test_a_dead_server_is_named_within_seconds():
    start = time.monotonic()
    with pytest.raises(InputError, match=r"does not answer.*start the server.*safe in the ledger"):
        Tracker("http://127.0.0.1:9")
    assert time.monotonic() - start < 30


def test_a_store_that_falls_silent_is_named_and_nothing_is_lost(local, tmp_path, monkeypatch):
    outcome, folder = trial(tmp_path)
    quick = Tracker(patience=1.0)
    quick.client = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    with pytest.raises(InputError, match="does not answer"):
        quick.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert folder.is_dir()
    assert log_trial(local, outcome, folder)
    monkeypatch.setenv("DEPT_MLFLOW_PATIENCE", "soon")
    with pytest.raises(InputError, match="MLFLOW_PATIENCE"):
        Tracker()


def test_a_refusal_is_not_waited_for(local):
    start = time.monotonic()
    with pytest.raises(MlflowException):
        local.ask("get_run", "f" * 32)
    assert time.monotonic() - start < 2


def test_who_is_interrupted_in_a_wait_hardly_waits_on_the_way_out():
    patience, raised = Patience("http://somewhere", 600.0), [ConnectionError("[Errno 111] Connection refused")]

    def call():
        raise raised.pop() if raised else KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patience.ask(call)
    assert patience.seconds == LAST_SECONDS


def test_after_a_wait_in_vain_patience_is_back_with_the_first_answer(monkeypatch):
    """Seconds that a request may wait, as tenacity is told them; nothing sleeps."""
    waits, stop = [], patience_module.stop_after_delay
    monkeypatch.setattr(patience_module, "stop_after_delay", lambda most: waits.append(most) or stop(0))
    patience = Patience("http://somewhere", 600.0)

    def silent():
        raise ConnectionError("[Errno 111] Connection refused")

    for _ in range(2):
        with pytest.raises(InputError, match="does not answer"):
            patience.ask(silent)
    assert patience.ask(lambda: "here") == "here"
    assert patience.ask(lambda: "here") == "here"
    assert waits == [600, LAST_SECONDS, LAST_SECONDS, 600]
    patience.hurry()
    patience.ask(lambda: "here")
    patience.ask(lambda: "here")
    assert waits[4:] == [LAST_SECONDS] * 2  # the process ends, whatever answers
