"""Finished trials with scores of one's choice, as the ledger would hand them to the report."""

import hashlib
import io

import pytest
from PIL import Image

from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from flows.reporting.plot import Plot

SHAPE = AdapterConfig(m=10, r=4, s=64, alpha=8.0)
D = 576


def outcome(task, init, accuracy, *, k=16, seed=0, role="target", source=None, method="dept", spec=None, **changes):
    """A finished trial with the given test score; `spec` changes the spec, `changes` the outcome."""
    fields = {
        "backbone": "smollm2-135m",
        "backbone_id": "b" * 64,
        "task": task,
        "task_version": 1,
        "data_hash": "d" * 64,
        "role": role,
        "method": method,
        "init": init,
        "shots": None if init == "untrained" or role == "source" else k,
        "seed": seed,
        "source_task": source,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest() if source else None,
        "prompt_text": "Name the label.",
        "adapter": SHAPE,
        "training": TrainConfig(steps=0 if init == "untrained" else 15),
        "test_rows": 200,
    }
    spec = TrialSpec(**(fields | (spec or {})))
    steps = 0 if init == "untrained" else 60 if role == "source" else 15
    fields = {
        "spec": spec,
        "adapter_key": f"adapters/{spec.fingerprint}/1",
        "adapter_sha256": spec.fingerprint,
        "best_step": steps // 15 * 10,
        "steps_done": steps,
        "validation": {"accuracy": accuracy - 1, "macro_f1": accuracy},
        "test": {"accuracy": accuracy, "macro_f1": accuracy - 0.5},
        "loss_curve": [(step, 0.9 * 0.93**step + 0.02 * (step % 3)) for step in range(1, steps + 1)],
        "validation_curve": [(step, 55 + (accuracy - 56) * step / steps) for step in range(0, steps + 1, 5) if steps],
        "validation_loss_curve": [(step, 1.2 - 0.4 * step / steps) for step in range(0, steps + 1, 5) if steps],
        "seconds": 1.3 * steps,
        "tokens": 240 * steps,
        "tokens_per_second": 160.0 * (steps > 0),
        "peak_memory_mib": 1432.0,
        "trainable": SHAPE.trainable(D),
        "cut_rows": 3 if role == "source" else 0,
    }
    return TrialOutcome(**(fields | changes))


def two_targets():
    """Two targets, k = 16, two seeds: untrained, scratch and one strategy."""
    return [
        outcome("amazon-polarity", "scratch", 88.0, role="source"),
        outcome("movie-polarity", "untrained", 54.0),
        outcome("movie-polarity", "scratch", 75.0, seed=0),
        outcome("movie-polarity", "best-source", 83.0, seed=0, source="amazon-polarity"),
        outcome("movie-polarity", "scratch", 71.0, seed=1),
        outcome("movie-polarity", "best-source", 85.0, seed=1, source="amazon-polarity"),
        outcome("tweet-polarity", "untrained", 27.0),
        outcome("tweet-polarity", "scratch", 78.0, seed=0),
        outcome("tweet-polarity", "best-source", 93.0, seed=0, source="nyt-polarity"),
        outcome("tweet-polarity", "scratch", 80.0, seed=1),
        outcome("tweet-polarity", "best-source", 91.0, seed=1, source="amazon-polarity"),
    ]


def many(targets, ks=(4, 16), seeds=5):
    """A large run: 2 sources, and on each target, k and seed scratch, two strategies and two baselines."""
    trials = [outcome(f"source-{number}", "scratch", 88.0 - number, role="source") for number in range(2)]
    for place in range(targets):
        task = f"customer-task-{place:03d}"
        trials.append(outcome(task, "untrained", 50.0 + place % 7))
        for k in ks:
            for seed in range(seeds):
                score = 60.0 + (place * 7 + seed * 3) % 20 + k / 8
                trials += [
                    outcome(task, "scratch", score, k=k, seed=seed),
                    outcome(task, "best-source", score + place % 11 - 3, k=k, seed=seed, source="source-0"),
                    outcome(task, "multitask", score + place % 5, k=k, seed=seed, source="multitask"),
                    outcome(task, "scratch", score - 1, k=k, seed=seed, method="prompt-tuning"),
                    outcome(task, "scratch", score + 1, k=k, seed=seed, method="lora"),
                ]
    return trials


@pytest.fixture
def no_plots(monkeypatch):
    """Reports whose words alone are looked at: drawing takes seconds."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "png")
    blank = Plot("accuracy", "Accuracy", "a blank", buffer.getvalue(), buffer.getvalue())
    monkeypatch.setattr("flows.reporting.bars.bar_plot", lambda rows: blank)
    monkeypatch.setattr("flows.reporting.curves.curve_plots", lambda outcomes: [])
