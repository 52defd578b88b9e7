"""What a plan may ask for at most, and how its keys are told."""

import json
import re

import pytest
from pydantic import ValidationError

from dept.backbones.describe import default_dtype, told_dtype
from dept.config import AdapterConfig
from flows.cli.plan import keys
from flows.planning.explain import PARTS, explained
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, with_settings
from flows.planning.retraining import Retraining
from infra.errors import InputError

HUGE = 10**9
COUNTS = [("adapter", key) for key in ("m", "r", "s")]
COUNTS += [("source_training", key) for key in ("steps", "batch_size", "eval_every", "patience")]


@pytest.mark.parametrize(("part", "key"), COUNTS)
def test_absurd_counts_are_refused_with_what_is_allowed(part, key):
    with pytest.raises(InputError, match=rf"{part}\.{key}: must be a whole number from \d+ to [\d,]+, got 1000000000"):
        with_settings(load_plan("demo"), [f"{part}.{key}={HUGE}"])
    with pytest.raises(InputError, match=r"adapter\.alpha"):
        with_settings(load_plan("demo"), ["adapter.alpha=1.0e+30"])
    told = {line["key"]: line["may_be"] for line in keys(Plan, PARTS)}
    assert re.fullmatch(r"a whole number from \d+ to [\d,]+", told[f"{part}.{key}"])
    group = part.replace("source_", "scratch_")
    with pytest.raises(ValidationError) as raised:
        Plan(name="a", targets=["rte"], strategies=["scratch"], groups=[{"targets": ["rte"], group: {key: HUGE}}])
    assert f"groups.0.{group}.{key}: must be a whole number" in explained(raised.value, Plan)


@pytest.mark.parametrize(
    "more",
    [
        {"targets": [f"t{i}" for i in range(10_000)], "seeds": list(range(50)), "shots": [1, 2, 4]},
        {
            "targets": [f"t{i}" for i in range(10_000)],
            "rates": {"dept": [0.1 * i for i in range(1, 101)]},
            "seeds": [0],
        },
    ],
    ids=["draws", "search"],
)
def test_a_plan_of_too_many_trials_is_refused_before_it_is_spelled_out(more):
    with pytest.raises(ValidationError) as raised:
        Plan(name="a", strategies=["scratch"], search_draws=2, **more)
    assert "at most 1,000,000; divide the plan" in explained(raised.value, Plan)


def test_a_prompt_as_costly_as_a_huge_pair_is_refused():
    with pytest.raises(InputError, match=r"prompt of 190,100 tokens.*Remedy: a smaller m or r"):
        AdapterConfig(m=100, r=10_000, s=9_000).as_prompt_tuning(d=500)
    assert AdapterConfig(m=10, r=4, s=64).as_prompt_tuning(d=576).m == 14


@pytest.mark.parametrize("key", ["max_age_days", "margin"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_order_of_retraining_has_finite_numbers(key, value):
    with pytest.raises(ValidationError, match="finite"):
        Retraining(**{key: value})


def test_mappings_are_told_as_mappings():
    told = {line["key"]: line for line in keys(Plan, PARTS)}
    assert told["own_tasks[].verbalizer"]["may_be"] == "`label: word` for each label"
    assert "label in the data" in told["own_tasks[].verbalizer"]["meaning"]
    assert told["own_tasks[].source.columns"]["may_be"] == "`field: column` for each field"
    assert told["own_tasks[].source.where"]["may_be"] == "`column: value` for each column"
    assert {told[f"own_tasks[].{key}"]["default"] for key in ("verbalizer", "source.columns")} == {"none"}
    parts = json.loads(json.dumps(Plan.model_json_schema()))["$defs"]
    for part, key in (("Task", "verbalizer"), ("FileSource", "columns"), ("HubSource", "where")):
        found = parts[part]["properties"][key]
        assert found["anyOf"][0] == {"type": "object", "additionalProperties": {"type": "string"}}
        assert found["description"]


def test_a_number_type_that_nobody_asked_for_is_told(monkeypatch):
    assert told_dtype("bfloat16") == ""
    monkeypatch.setattr("dept.backbones.describe._torch_has_cuda", lambda: False)
    assert told_dtype(None) == "dtype float32 (this machine has no GPU; set dtype: bfloat16 for a pool of GPUs)"
    assert default_dtype() == "float32"
    assert told_dtype(None, "cuda") == "dtype bfloat16 (the usual one of device cuda; the key dtype sets another)"
