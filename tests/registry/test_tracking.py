import itertools
import json
import math
import time

import pytest
from mlflow.exceptions import MlflowException

from infra.commit import source_commit
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.tracking import Rows, Tracker, TrialLog
from registry.tracking.names import run_name, short_task
from registry.tracking.trial_run import thinned
from tasks.catalogue import catalogue
from tests.registry.registry_helpers import make_spec, new_store
from tests.registry.tracking_helpers import Lossy, log_trial, trial


@pytest.fixture(params=["sqlite", "server"])
def tracker(request):
    if request.param == "server":
        return Tracker(request.getfixturevalue("server"), experiment=f"x{time.monotonic_ns()}")
    new_store(home())
    return Tracker()


def test_a_trial_is_written_in_full(tracker, tmp_path):
    spec = make_spec(init="best-source", source_task="amazon-polarity", source_sha256="c" * 64)
    curve = [(step, 3.0 / step) for step in range(1, 61)]
    outcome, folder = trial(tmp_path, spec, loss_curve=curve, validation={"accuracy": 75.0, "loss": math.nan})
    parent = tracker.open_flow_run("flow", {"plan": "demo", "long": "x" * 9000, "none": None}, {"plan": "demo"})
    item = TrialLog(outcome, 3, folder, provenance={"device": "cpu"}, tags={"registered_model": "m"}, ended=1000.0)
    run_id = tracker.log_trials(parent, [item])[spec.fingerprint]
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "movi-pola/16/0/best-source:amazon-polarity"
    assert (run.info.start_time, run.info.end_time) == (940_000, 1_000_000)
    wanted = {
        "kind": "trial",
        "role": "target",
        "backbone": "tiny",
        "backbone_id": "b" * 64,
        "data_hash": "d" * 64,
        "fingerprint": spec.fingerprint,
        "attempt": "3",
        "adapter_sha256": "a" * 64,
        "source_sha256": "c" * 64,
        "owner": process_id(),
        "mlflow.parentRunId": parent,
        "provenance.device": "cpu",
        "registered_model": "m",
    }
    assert wanted.items() <= run.data.tags.items()
    assert run.data.params == {
        "task": "movie-polarity",
        "k": "16",
        "seed": "0",
        "method": "dept",
        "start": "best-source",
        "source": "amazon-polarity",
        "lr_prompt": "0.01",  # numbers, each of its own: the compare page draws them on axes
        "lr_low_rank": "0.001",
        "steps": "60",
    }
    assert run.data.tags["shape"] == "m=10 r=4 s=96"
    assert run.data.tags["mlflow.source.git.commit"] == source_commit() != ""
    assert run.data.tags["rows.training"] == "r1,r2"
    assert run.data.tags["cost.best_step"] == "20"
    for told in (
        "**movie-polarity**, 16 shots, seed 0",
        "from **amazon-polarity**",
        "test score 70.5",
        outcome.adapter_key,
    ):
        assert told in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["test/accuracy"] == 70.5
    assert run.data.metrics["validation/accuracy"] == 75.0
    assert math.isnan(run.data.metrics["validation/loss"])
    assert run.data.metrics["cost/peak_memory_mib"] == 512.0
    assert {"cost/seconds", "cost/tokens_per_second"} <= run.data.metrics.keys()
    points = tracker.client.get_metric_history(run_id, "curve/train_loss")
    assert sorted((point.step, point.value) for point in points) == curve
    assert {point.step: point.timestamp for point in points}[30] == 970_000  # half of the steps, half of the time
    for key, wanted in (
        ("curve/validation_score", [(0, 55.0), (20, 75.0)]),
        ("curve/validation_loss", [(0, 0.9), (20, 0.5)]),
    ):
        assert sorted((p.step, p.value) for p in tracker.client.get_metric_history(run_id, key)) == wanted
    (tmp_path / "report.html").write_text("<p>")
    tracker.close_flow_run(parent, "FINISHED", {"trials": 1}, [tmp_path / "report.html", folder])
    closed = tracker.client.get_run(parent)
    assert (closed.info.status, closed.data.metrics["trials"], closed.data.params["plan"]) == ("FINISHED", 1.0, "demo")
    assert len(closed.data.params["long"]) == 500
    assert "none" not in closed.data.params
    assert {"report.html", spec.fingerprint} <= {file.path for file in tracker.client.list_artifacts(parent)}
    assert log_trial(tracker, outcome, folder, "another") == run_id


def test_a_trial_costs_three_requests_and_no_search(local, tmp_path):
    local.client = Lossy(local.client)
    outcome, folder = trial(tmp_path)
    first = local.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert local.client.calls == ["create_run", "log_batch", "set_terminated"]
    assert local.log_trials(None, [TrialLog(outcome, 1, folder)]) == first  # asked again in the same process
    assert len(local.client.calls) == 3


def test_a_stack_costs_a_server_three_requests_a_trial(server, tmp_path, requests_sent):
    """MLflow has no request that makes, fills and ends a run; these go side by side."""
    tracker, items = Tracker(server, experiment="requests"), []
    parent = tracker.open_flow_run("flow", {}, {})
    for seed in range(8):
        outcome, folder = trial(tmp_path, make_spec(seed=seed), loss_curve=[(step, 1.0) for step in range(300)])
        items.append(TrialLog(outcome, 1, folder))
    requests_sent.clear()
    runs = tracker.log_trials(parent, items)
    assert len(requests_sent) == 3 * len(items), requests_sent
    assert {tracker.client.get_run(run).info.status for run in runs.values()} == {"FINISHED"}
    assert len(set(runs.values())) == len(items)


def test_data_sets_are_inputs_with_their_rows(local):
    rows = [
        Rows("film", "training", ["a", "b"], digest="d" * 64, about={"url": "https://example.org"}),
        Rows("film", "test", [str(number) for number in range(3000)], digest="d" * 64),
    ]
    run = local.client.get_run(local.open_flow_run("flow", {}, {}, "**what** it is", rows))
    assert run.data.tags["mlflow.note.content"] == "**what** it is"
    found = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert {use: one.digest for use, one in found.items()} == {
        "training": "d" * 16 + "-training",
        "test": "d" * 16 + "-test",
    }
    assert json.loads(found["training"].profile)["row_ids"] == ["a", "b"]
    assert json.loads(found["training"].source)["url"] == "https://example.org"
    many = json.loads(found["test"].profile)
    assert (many["num_rows"], "row_ids" in many, len(many["row_ids_sha256"])) == (3000, False, 64)


def test_a_data_set_that_another_run_enters_meanwhile_is_entered_again(local, monkeypatch):
    rows, log, asked = [Rows("film", "training", ["a"], digest="d" * 64)], local.client.log_inputs, []

    def raced(*args, **options):
        asked.append(args)
        if len(asked) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name, datasets.digest")
        return log(*args, **options)

    def refused(*_, **__):
        raise MlflowException("no such run")

    run_id = local.client.create_run(local.experiment_id).info.run_id
    monkeypatch.setattr(local.client, "log_inputs", raced)
    local.log_datasets(run_id, rows)
    assert len(asked) == 2
    assert len(local.client.get_run(run_id).inputs.dataset_inputs) == 1
    monkeypatch.setattr(local.client, "log_inputs", refused)
    with pytest.raises(MlflowException, match="no such run"):
        local.log_datasets(run_id, rows)


def test_names_tell_trials_apart_in_their_first_20_characters():
    tasks = (
        "movie-polarity",
        "amazon-polarity",
        "nyt-polarity",
        "tweet-sentiment",
        "bbc-topic",
        "rte",
        "superglue-wic",
    )
    starts = [{"init": init} for init in ("scratch", "best-source", "similar", "mixture", "multitask", "prompt-only")]
    starts += [{"init": "source", "source_task": name} for name in ("amazon-polarity", "nyt-polarity")]
    starts += [{"init": "scratch", "method": method} for method in ("prompt-tuning", "adept", "lora", "full", "tfidf")]
    seen = {}
    for task, shots, seed, start in itertools.product(tasks, (4, 16, 32), (0, 1, 9), starts):
        spec = make_spec(task=task, shots=shots, seed=seed, **start)
        assert run_name(spec)[:20] not in seen, (run_name(spec), seen[run_name(spec)[:20]])
        seen[run_name(spec)[:20]] = run_name(spec)
    every = sorted(catalogue())
    assert len({short_task(name) for name in every}) == len(every)


def test_a_curve_of_one_point_is_a_number_alone(local, tmp_path):
    outcome, folder = trial(tmp_path, loss_curve=[], validation_curve=[(0, 55.0)], validation_loss_curve=[(0, 0.9)])
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    assert not [name for name in local.client.get_run(run_id).data.metrics if name.startswith("curve/")]


def test_the_run_of_an_adapter_that_was_made_again_says_so(local, tmp_path):
    outcome, folder = trial(tmp_path)
    (old,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    again, _ = trial(tmp_path, outcome.spec, adapter_sha256="b" * 64)
    (new,) = local.log_trials(None, [TrialLog(again, 2, folder)]).values()
    assert new != old
    assert local.client.get_run(old).data.tags["superseded_by_attempt"] == "2"
    assert "superseded_by_attempt" not in local.client.get_run(new).data.tags


def test_what_a_killed_process_left_is_written_anew(local, tmp_path):
    outcome, folder = trial(tmp_path)
    tags = {"fingerprint": outcome.spec.fingerprint, "attempt": "1", "owner": "elsewhere"}
    left = local.client.create_run(local.experiment_id, tags=tags).info.run_id
    local.client = Lossy(local.client, "delete_run")  # deleted, and deleted again: no refusal
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 2, folder)]).values()
    old = local.client.get_run(left)
    assert (old.info.status, old.info.lifecycle_stage) == ("KILLED", "deleted")
    assert [run.info.run_id for run in local.client.search_runs([local.experiment_id])] == [run_id]
    assert "mlflow.parentRunId" not in local.client.get_run(run_id).data.tags


def test_an_attempt_that_was_overtaken_writes_nothing(local, tmp_path):
    outcome, folder = trial(tmp_path)
    late, _ = trial(tmp_path, adapter_sha256="e" * 64)
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 3, folder)]).values()
    assert list(local.log_trials(None, [TrialLog(late, 2, folder)]).values()) == [run_id]
    # the other way round: it woke in the middle of its own writing
    other, folder = trial(tmp_path, make_spec(seed=1))

    class Overtaken(Lossy):
        def __getattr__(self, name):
            if name == "log_batch" and not self.calls.count("delete_run"):
                self.calls.append("delete_run")
                (run,) = self._client.search_runs(
                    [local.experiment_id], filter_string=f"tags.fingerprint = '{other.spec.fingerprint}'"
                )
                self._client.delete_run(run.info.run_id)
            return super().__getattr__(name)

    local.client = Overtaken(local.client)
    assert local.log_trials(None, [TrialLog(other, 1, folder)])  # no error: the ledger refuses what comes after
    assert len(local.client.search_runs([local.experiment_id])) == 1


def test_a_trial_healed_with_other_numbers_gets_a_run_of_its_own(local, tmp_path):
    outcome, folder = trial(tmp_path)
    (old,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    anew, _ = trial(tmp_path, adapter_sha256="e" * 64)
    (new,) = local.log_trials(None, [TrialLog(anew, 2, folder)]).values()
    assert new != old
    assert local.client.get_run(old).info.status == "FINISHED"


def test_runs_that_a_person_deletes_stop_nobody(tracker, tmp_path, caplog):
    parent = tracker.open_flow_run("flow", {}, {})
    tracker.client.delete_run(parent)
    (tmp_path / "plan.yaml").write_text("name: mine")
    tracker.close_flow_run(parent, "FINISHED", {"trials": 1.0}, [tmp_path / "plan.yaml"], "done")
    tracker.fail(parent, "no rows")
    assert caplog.text.count("somebody has deleted run") == 2
    assert tracker.client.get_run(parent).info.lifecycle_stage == "deleted"
    tracker.close_flow_run("0" * 32, "FINISHED", {"trials": 1.0}, [])  # `mlflow gc` leaves nothing
    other = tracker.open_flow_run("flow", {}, {})
    with pytest.raises(Exception, match="status"):  # what is refused for another reason is told
        tracker.close_flow_run(other, "BETTER", {}, [])


def test_a_run_that_was_deleted_is_written_again_when_asked(local, tmp_path):
    outcome, folder = trial(tmp_path)
    first = log_trial(local, outcome, folder)
    local.client.delete_run(first)
    second = log_trial(local, outcome, folder)
    assert second != first
    assert local.client.get_run(second).info.status == "FINISHED"


def test_a_long_curve_is_thinned_to_one_request(local, tmp_path):
    long = [(step, 1.0 / step) for step in range(1, 30_001)]
    few = thinned(long, 500, kept=12_345)
    assert 490 < len(few) <= 501
    assert {1, 12_345, 30_000} <= {step for step, _ in few}
    assert thinned(long[:500], 500) == long[:500]
    outcome, folder = trial(tmp_path, loss_curve=long, steps_done=30_000)
    local.client = Lossy(local.client)
    local.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert local.client.calls.count("log_batch") == 1


def test_flow_runs_of_killed_processes_are_closed(local):
    place, _, _ = process_id().rpartition(":")
    tags = {"kind": "flow", "owner": f"{place}:1"}
    dead = local.client.create_run(local.experiment_id, tags=tags).info.run_id
    alive = local.open_flow_run("first", {}, {})
    local.open_flow_run("second", {}, {})
    assert local.client.get_run(dead).info.status == "KILLED"
    assert local.client.get_run(alive).info.status == "RUNNING"


def test_an_adapter_that_is_gone_is_named(local, tmp_path):
    outcome, _ = trial(tmp_path)
    with pytest.raises(InputError, match="is gone"):
        log_trial(local, outcome, tmp_path / "gone")
    assert local.client.search_runs([local.experiment_id]) == []
