"""Learning rates and sources are chosen by validation loss; of equals, by the score."""

from types import SimpleNamespace

import pytest

from dept.config import TrainConfig
from dept.engine.train import Result, State
from flows.execution import strategies
from flows.planning.rates import best_rates
from infra.errors import InputError
from tests.registry.registry_helpers import make_outcome, make_spec

LOW, HIGH = (0.01, 0.001), (0.1, 0.01)


def tried(tmp_path, found):
    """Search trials, and the outcomes of those that did not fail, from {rate: {task: (score, loss) or None}}."""
    specs, outcomes = {}, {}
    for rate, by_task in found.items():
        for task, reached in by_task.items():
            training = TrainConfig(lr_prompt=rate[0], lr_low_rank=rate[1])
            spec = make_spec(task=task, role="search", training=training, test_rows=0)
            specs.setdefault(("dept", rate), []).append(spec)
            if reached is not None:
                validation = {"score": reached[0], "loss": reached[1]}
                outcomes[spec.fingerprint] = make_outcome(spec, validation=validation)
    return specs, outcomes


def test_the_lower_mean_loss_wins_and_of_equals_the_better_score(tmp_path):
    better = {LOW: {"a": (80.0, 1.0), "b": (80.0, 1.2)}, HIGH: {"a": (70.0, 0.2), "b": (70.0, 1.4)}}
    assert best_rates(*tried(tmp_path, better)) == {("dept", ""): HIGH}
    assert best_rates(*tried(tmp_path, better), per_target=True) == {("dept", "a"): HIGH, ("dept", "b"): LOW}
    equal = {LOW: {"a": (60.0, 1.0)}, HIGH: {"a": (50.0, 1.0)}}
    assert best_rates(*tried(tmp_path, equal)) == {("dept", ""): LOW}


def test_a_rate_with_a_failed_trial_is_ruled_out(tmp_path):
    found = {LOW: {"a": (50.0, 2.0), "b": (50.0, 2.0)}, HIGH: {"a": (99.0, 0.1), "b": None}}
    assert best_rates(*tried(tmp_path, found)) == {("dept", ""): LOW}
    found[LOW]["a"] = None
    with pytest.raises(InputError, match=r"rates\.dept: a trial failed at every rate"):
        best_rates(*tried(tmp_path, found))
    with pytest.raises(InputError, match=r"rates\.dept: a trial of b failed at every rate"):
        best_rates(*tried(tmp_path, {LOW: {"b": None}}), per_target=True)


def test_the_source_of_the_lowest_loss_is_taken(monkeypatch):
    shop, probe = SimpleNamespace(backbone=None, store=None), TrainConfig(steps=2)
    adapter = SimpleNamespace(config=None)
    reached = {
        "0/0": State(best={"score": 75.0, "loss": 0.9}),
        "0/1": State(best={"score": 68.8, "loss": 0.6}),
        "0/2": State(best={"score": 99.0, "loss": 0.1}, failure="diverged"),
        "1/0": State(best={"score": 50.0, "loss": 0.7}),
        "1/1": State(best={"score": 49.0, "loss": 0.7}),
        "1/2": State(),
    }
    monkeypatch.setattr(strategies, "load_adapter", lambda *_: adapter)
    monkeypatch.setattr(strategies, "from_source", lambda *_: adapter)
    monkeypatch.setattr(strategies, "rows_of", lambda *_: [])
    results = {key: Result(key, adapter, state, 0.0) for key, state in reached.items()}
    monkeypatch.setattr(strategies, "train", lambda *_, **__: results)
    sources = ["first", "second", "third"]
    chosen = strategies.best_sources(shop, sources, {"one": ([], []), "two": ([], [])}, probe)
    assert chosen == {"one": "second", "two": "first"}
