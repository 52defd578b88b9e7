"""Learning rates are chosen by validation loss; of equals, by the score."""

from dept.config import TrainConfig
from flows.planning.rates import best_rates
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
                outcomes[spec.fingerprint] = make_outcome(spec, tmp_path, validation=validation)
    return specs, outcomes


def test_the_lower_mean_loss_wins_and_of_equals_the_better_score(tmp_path):
    better = {LOW: {"a": (80.0, 1.0), "b": (80.0, 1.2)}, HIGH: {"a": (70.0, 0.2), "b": (70.0, 1.4)}}
    assert best_rates(*tried(tmp_path, better)) == ({("dept", ""): HIGH}, {})
    assert best_rates(*tried(tmp_path, better), per_target=True)[0] == {("dept", "a"): HIGH, ("dept", "b"): LOW}
    equal = {LOW: {"a": (60.0, 1.0)}, HIGH: {"a": (50.0, 1.0)}}
    assert best_rates(*tried(tmp_path, equal))[0] == {("dept", ""): LOW}


def test_a_rate_with_a_failed_trial_is_ruled_out(tmp_path):
    found = {LOW: {"a": (50.0, 2.0), "b": (50.0, 2.0)}, HIGH: {"a": (99.0, 0.1), "b": None}}
    assert best_rates(*tried(tmp_path, found)) == ({("dept", ""): LOW}, {})
    found[LOW]["a"] = None
    chosen, without = best_rates(*tried(tmp_path, found))
    assert chosen == {}
    assert without["dept", ""].startswith("rates.dept: a trial failed at every rate")
    found = {LOW: {"a": (50.0, 2.0), "b": None}, HIGH: {"a": (60.0, 1.0), "b": None}}
    chosen, without = best_rates(*tried(tmp_path, found), per_target=True)
    assert chosen == {("dept", "a"): HIGH}  # the other target goes on
    assert without["dept", "b"].startswith("rates.dept: a trial of b failed at every rate")
