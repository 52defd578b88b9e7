"""The time of a dry run: at a speed that is remembered, else from a short probe, else it is said to be unknown."""

import json
import socket
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from dept.backbones import tuned
from dept.backbones.describe import describe
from dept.engine import tune
from flows.cli.cost_table import show_estimate
from flows.planning import speed as speeds
from flows.planning.backbone_cost import BackboneCost
from flows.planning.cost import Estimate
from flows.planning.plan import Plan
from flows.planning.speed import speed
from infra.identity import process_id
from registry.ledger import Ledger
from tests.registry.ledger_helpers import make_outcome, make_spec

HERE = {"host": socket.gethostname(), "device": "cpu"}


@pytest.fixture
def backbone(tiny_folders, monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    return BackboneCost(
        Plan(name="x", backbone=str(tiny_folders["llama"]), targets=["a"], strategies=["scratch"], device="cpu")
    )


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr("dept.backbones.shared.shared_backbone", lambda *_: pytest.fail("the weights were loaded"))


def trained(backbone, provenance, seed, tokens=1000, seconds=10.0, **changes):
    """A finished trial of the backbone in a ledger."""
    ledger = Ledger.open()
    known = {"backbone_id": describe(backbone.folder).backbone_id, "dtype": "float32", "seed": seed}
    spec = make_spec(**{**known, **changes})
    ledger.add([spec])
    (claim,) = ledger.claim(process_id(), 1000)
    outcome = make_outcome(spec, tokens=tokens, seconds=seconds)
    assert ledger.trained(claim, outcome, provenance)
    assert ledger.finish(claim, "run", outcome)
    return ledger


def test_trials_that_were_trained_here_are_remembered(backbone, no_weights):
    trained(backbone, HERE, 0)
    ledger = trained(backbone, HERE, 1, tokens=2000, seconds=5.0)
    for seed, (told, changes) in enumerate(
        [
            ({**HERE, "host": "elsewhere"}, {}),
            ({**HERE, "device": "cuda:0"}, {}),
            ({**HERE, "sharded": True}, {}),
            (HERE, {"dtype": "bfloat16"}),
            (HERE, {"method": "lora"}),
            (HERE, {"backbone_id": "c" * 64}),
            (None, {}),
        ]
    ):
        trained(backbone, told, seed + 2, tokens=10**9, **changes)
    rate, said = speed(backbone, ledger)
    assert rate == pytest.approx(200.0)  # 3,000 tokens in 15 s
    assert "at 200 tokens a second, the speed of 2 trials trained here before" in said


def test_what_tune_measured_is_remembered(backbone, no_weights, monkeypatch):
    device = torch.device("cpu")
    place = tuned.place(AutoConfig.from_pretrained(backbone.folder), device)
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(tuned.body_of(tuned.Tuned(), {"float32": 321.0})))
    rate, said = speed(backbone, None)
    assert rate == 321.0
    assert "`dept tune` measured" in said
    place.write_text(json.dumps(tuned.body_of(tuned.Tuned(), {"bfloat16": 321.0, "float32": float("nan")})))
    monkeypatch.setattr(speeds, "PROBE_BYTES", 1)
    assert speed(backbone, None)[0] is None


def test_tune_keeps_what_it_measured(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "seconds_of", lambda _, tokens: tokens / 500.0)
    monkeypatch.setattr(tune, "compile_layers", lambda _: False)
    tune.tune(tiny_llama)
    assert tuned.rate(tiny_llama.config, tiny_llama.device, "float32") == pytest.approx(500.0)
    assert tuned.rate(tiny_llama.config, tiny_llama.device, "bfloat16") is None


def test_a_probe_ends_in_time(backbone, monkeypatch):
    """Each step takes 4 s of a clock of ours: with the first, at most two fit into 10 s."""
    clock, steps = [0.0], []

    def step(_, tokens):
        steps.append(tokens)
        clock[0] += 4.0
        return 4.0

    monkeypatch.setattr(speeds, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(tune, "seconds_of", step)
    rate, said = speed(backbone, None)
    assert steps == [speeds.PROBE_TOKENS] * 2
    assert rate == speeds.PROBE_TOKENS / 4.0
    assert "a probe of at most 10 s" in said


def test_large_weights_are_not_loaded_for_an_estimate(backbone, no_weights, monkeypatch):
    monkeypatch.setattr(speeds, "PROBE_BYTES", 1)
    rate, said = speed(backbone, None)
    assert rate is None
    assert said == "Time: not known before the first trial here; `dept tune` measures it."


def test_a_plan_of_which_nothing_is_left_is_shown(capsys):
    """As after a finished run: the ledger holds every trial, and no line is left to sum up."""
    show_estimate(Estimate([], None, ["28 trials that the ledger holds are left out"]))
    assert "28 trials" in capsys.readouterr().out
