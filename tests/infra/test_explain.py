"""What is wrong is said with its full path, in words, without pydantic's own."""

import re

import pytest
import yaml

from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, validated
from flows.planning.retraining import Retraining
from infra.errors import InputError
from infra.explain import bounds
from tasks.spec import Task

TASK = {
    "template": "{text} Mood:",
    "verbalizer": {"good": "great", "bad": "awful"},
    "source": {"kind": "file", "path": "x.csv"},
}
NEVER = re.compile(r"\^\[|input should|literal|tag|Value error|pydantic|discriminator|instance of|\[key\]|\\d")


def said(tmp_path, **changes):
    body = {"targets": ["movie-polarity"], "sources": [], "strategies": ["scratch"], **changes}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    with pytest.raises(InputError) as caught:
        load_plan(path)
    text = str(caught.value)
    assert not NEVER.search(text), text
    return text.removeprefix("plan p.yaml: ")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"targetz": []}, "targetz: unknown key; did you mean targets?"),
        ({"adapter": {"layuot": "x"}}, "adapter.layuot: unknown key; did you mean layout? Known: m, r, s, alpha"),
        ({"adapter": {"m": 0}}, "adapter.m: must be a whole number from 1 to 100,000, got 0"),
        ({"adapter": 3}, "adapter: must be keys and values, got 3"),
        ({"source_training": {"stesp": 3}}, "source_training.stesp: unknown key; did you mean steps?"),
        ({"source_training": {"warmup": 2}}, "source_training.warmup: must be a number from 0 to 1, got 2"),
        ({"source_training": {"clip": 0}}, "source_training.clip: must be a number above 0, got 0"),
        (
            {"groups": [{"targets": ["movie-polarity"], "adapter": {"layuot": 1}}]},
            "groups.0.adapter.layuot: unknown key; did you mean layout?",
        ),
        (
            {"groups": [{"targets": ["movie-polarity"], "scratch_training": {"steps": -3}}]},
            "groups.0.scratch_training.steps: must be a whole number from 0 to 10,000,000, got -3",
        ),
        ({"groups": [{"targts": []}]}, "groups.0.targts: unknown key; did you mean targets?"),
        (
            {"own_tasks": {"mine": {**TASK, "templat": "x"}}},
            "mine.templat: unknown key; did you mean template?",
        ),
        (
            {"own_tasks": {"mine": {**TASK, "source": {"kind": "fil", "path": "x"}}}},
            "own_tasks.mine.source: kind 'fil' is unknown; did you mean file?",
        ),
        ({"own_tasks": {"mine": {**TASK, "source": {"path": "x"}}}}, "own_tasks.mine.source: kind is missing"),
        (
            {"own_tasks": {"mine": {**TASK, "source": {"kind": "file", "path": "x", "pth": "y"}}}},
            "own_tasks.mine.source.pth: unknown key; did you mean path?",
        ),
        ({"own_tasks": [{**TASK, "name": "a b"}]}, "own_tasks.0.name: must be a name of letters, digits"),
        ({"own_tasks": {"mine": {**TASK, "metrics": ["acuracy"]}}}, "'acuracy' is unknown; did you mean accuracy?"),
        ({"shots": [0]}, "shots.0: must be a whole number from 1 to 10,000 or all, got 0"),
        ({"shots": ["al"]}, "shots.0: must be a whole number from 1 to 10,000 or all, got 'al'"),
        ({"shots": []}, "shots: must be a list of 1 to 20 (each: a whole number from 1 to 10,000 or all), got []"),
        ({"strategies": ["best-sorce"]}, "strategies.0: 'best-sorce' is unknown; did you mean best-source?"),
        ({"methods": ["lorra"]}, "methods.0: 'lorra' is unknown; did you mean lora?"),
        ({"rates": {"dpt": [1]}}, "rates.dpt: 'dpt' is unknown; did you mean dept?"),
        ({"rates": {"dept": ["x"]}}, "rates.dept.0: must be a number above 0, got 'x'"),
        ({"device": "abacus"}, "device: must be cpu, mps, cuda or cuda:N, got 'abacus'"),
        ({"engine": "horovod"}, "engine: 'horovod' is unknown; known: local, deepspeed"),
        ({"per_class": "maybe"}, "per_class: must be true or false, got 'maybe'"),
        ({"name": True}, "name: read as a boolean"),
        ({"targets": []}, "targets: must be a list"),
    ],
)
def test_faults_of_a_plan(tmp_path, changes, text):
    assert text in said(tmp_path, **changes)


def test_many_faults_are_counted(tmp_path):
    text = said(tmp_path, a=1, b=2, c=3, d=4, e=5)
    assert text.endswith("(and 2 more)")


def test_orders_of_other_kinds():
    with pytest.raises(InputError, match=r"retrain: max_age_days: must be a number above 0, got 0"):
        validated(Retraining, "retrain", max_age_days=0)


def test_every_pattern_and_field_has_words():
    for model in (Plan, Retraining, Task):
        for name, field in model.model_fields.items():
            words = bounds(field)
            assert words, f"{model.__name__}.{name}"
            assert "another form" not in words, f"{model.__name__}.{name}: give it a Form"
