"""How targets start follows from the outcomes of probes and mixtures alone."""

import pytest

from dept.trial import TrialOutcome
from flows.planning.check import check
from flows.planning.places import Draw
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, replaced
from flows.planning.strategies import choose, start_specs
from flows.planning.trials import Inputs

FOOD, NEWS = "f" * 64, "n" * 64
ADAPTERS = {"amazon-polarity": FOOD, "nyt-polarity": NEWS, "multitask": "m" * 64}
EVERY = ["scratch", "source:nyt-polarity", "best-source", "similar", "mixture", "multitask", "prompt-only"]
ONE, TWO = Draw("movie-polarity", 16, 0), Draw("tweet-polarity", 16, 0)


@pytest.fixture(scope="module")
def demo():
    plan = replaced(
        load_plan("demo"), targets=[ONE.target, TWO.target], groups=[], strategies=EVERY, seeds=[0], probe_steps=2
    )
    return plan, Inputs(plan.resolve_tasks(), check(plan), "b" * 64, 576, "float32")


def reached(spec, **changes):
    return TrialOutcome(spec, "", changes.pop("sha256", ""), 0, 0, **{"validation": {}, **changes})


def test_each_question_is_one_trial(demo):
    plan, inputs = demo
    specs = start_specs(plan, inputs, ADAPTERS)
    kinds = [(spec.task, spec.kind, spec.init, spec.start, spec.source_task) for spec in specs]
    assert len(set(kinds)) == len(kinds)  # best-source and prompt-only ask the same
    movie = sorted(kind[1:] for kind in kinds if kind[0] == "movie-polarity")
    assert [kind[:3] for kind in movie] == [
        ("mixture", "mixture", "source"),
        ("probe", "best-source", "source"),
        ("probe", "best-source", "source"),
        ("probe", "similar", "text"),
    ]
    by_init = {(spec.task, spec.init, spec.source_task): spec for spec in specs}
    probe = by_init["movie-polarity", "best-source", "nyt-polarity"]
    assert (probe.source_sha256, probe.training.steps, probe.training.warmup, probe.test_rows) == (NEWS, 2, 0.0, 0)
    assert probe.training.lr_prompt == plan.transfer_training.lr_prompt
    assert by_init["movie-polarity", "similar", None].sources == (FOOD, NEWS)
    assert all(spec.dtype == "float32" and spec.role == "search" for spec in specs)


def test_other_recipes_of_what_plays_no_part_are_the_same_trials(demo):
    plan, inputs = demo
    plan = replaced(plan, probe_steps=0, strategies=["best-source", "mixture"])
    other = replaced(plan, transfer_training=plan.transfer_training.model_dump() | {"lr_prompt": 0.5, "batch_size": 2})
    ours, theirs = ({s.fingerprint for s in start_specs(p, inputs, ADAPTERS)} for p in (plan, other))
    assert ours == theirs


def test_the_source_of_the_lowest_loss_and_of_the_nearest_prompt(demo):
    plan, inputs = demo
    found = {}
    for spec in start_specs(plan, inputs, ADAPTERS):
        movie, news = spec.task == "movie-polarity", spec.source_sha256 == NEWS
        if spec.init == "best-source" and movie:
            found[spec.fingerprint] = reached(
                spec, validation={"score": 50.0 + 20 * (not news), "loss": 0.9 - 0.3 * news}
            )
        if spec.init == "best-source" and not movie and not news:  # the other probe failed
            found[spec.fingerprint] = reached(spec, validation={"score": 1.0, "loss": 9.0})
        if spec.init == "similar":
            found[spec.fingerprint] = reached(spec, extra={"similarity": [0.1, 0.2] if movie else [0.2, 0.2]})
        if spec.kind == "mixture" and movie:
            found[spec.fingerprint] = reached(spec, sha256="x" * 64, extra={"weights": [0.25, 0.75]})
    starts = choose(plan, inputs, ADAPTERS, found)
    shas = {(draw, strategy): origin.sha256 for (draw, strategy), origin in starts.origins.items()}
    assert shas == {
        (ONE, "source:nyt-polarity"): NEWS,
        (TWO, "source:nyt-polarity"): NEWS,
        (ONE, "best-source"): NEWS,
        (TWO, "best-source"): FOOD,
        (ONE, "prompt-only"): NEWS,
        (TWO, "prompt-only"): FOOD,
        (ONE, "similar"): NEWS,
        (TWO, "similar"): FOOD,
        (ONE, "mixture"): "x" * 64,
        (ONE, "multitask"): "m" * 64,
        (TWO, "multitask"): "m" * 64,
    }
    assert starts.origins[ONE, "mixture"].task == "amazon-polarity 0.25 + nyt-polarity 0.75"
    assert starts.missing == {(TWO, "mixture"): "its mixture of the sources failed"}


def test_a_failed_source_takes_along_what_needs_it_and_nothing_else(demo):
    plan, inputs = demo
    left = {name: sha256 for name, sha256 in ADAPTERS.items() if name != "amazon-polarity"}
    assert start_specs(plan, inputs, left) == []
    starts = choose(plan, inputs, left, {})
    assert {strategy for _, strategy in starts.origins} == {"source:nyt-polarity", "multitask"}
    assert {strategy for _, strategy in starts.missing} == {"best-source", "similar", "mixture", "prompt-only"}
    assert set(starts.missing.values()) == {"the source trial of amazon-polarity failed"}


def test_one_source_leaves_nothing_to_try(demo):
    plan, inputs = demo
    plan = replaced(plan, sources=["nyt-polarity"], strategies=["best-source", "similar", "prompt-only"])
    assert start_specs(plan, inputs, ADAPTERS) == []
    assert {origin.sha256 for origin in choose(plan, inputs, ADAPTERS, {}).origins.values()} == {NEWS}


def test_plans_of_many_tasks_and_without_registration():
    names = [f"task-{i}" for i in range(1000)]
    plan = Plan(name="wide", targets=names, strategies=["scratch"], register=False)
    assert len(plan.targets) == 1000
    assert not plan.register
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
