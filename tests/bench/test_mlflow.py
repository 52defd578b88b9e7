"""What an MLflow server costs a stack of 64 trials: requests and milliseconds a trial, over HTTP.

A run takes three requests: MLflow has none that makes, fills and ends one, nor one for several runs.
"""

import time

import pytest

from registry.tracking import Tracker, TrialLog
from tests.registry.registry_helpers import make_spec
from tests.registry.tracking_helpers import trial

TRIALS = 64
MOST_MS = 100.0


@pytest.mark.slow
def test_a_stack_of_64_over_http(server, tmp_path, requests_sent, record_property):
    tracker = Tracker(server, experiment="bench")
    parent = tracker.open_flow_run("bench", {}, {})
    curve = [(step, 2.0 - step / 100) for step in range(60)]
    items = []
    for seed in range(TRIALS):
        outcome, folder = trial(tmp_path, make_spec(seed=seed), loss_curve=curve, validation_curve=curve[::5])
        items.append(TrialLog(outcome, 1, folder))
    requests_sent.clear()
    began = time.perf_counter()
    tracker.log_trials(parent, items)
    each = 1000 * (time.perf_counter() - began) / TRIALS
    told = f"{len(requests_sent) / TRIALS:.2f} requests and {each:.0f} ms a trial"
    record_property("mlflow", told)
    print(told)
    assert len(requests_sent) == 3 * TRIALS
    assert each < MOST_MS, told
