"""Plans on encoders: words at masks, or heads alone; what an encoder cannot do is said before any work."""

import csv

import pytest

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from dept.engine.evaluate import Request, score
from flows import transfer
from flows.execution.open import open_plan
from flows.execution.settle import work_here
from flows.planning.cost import estimate
from flows.planning.plan_file import load_plan
from infra.errors import InputError
from registry.serving.predictor import Predictor, load_adapter
from tests.encoders import save_encoder
from tests.flows.conftest import block

ONE = {"targets": ["film"], "seeds": [0]}
LETTERS = {"m": 2, "r": 2, "s": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {
        "words": str(save_encoder(root / "tiny-electra", "electra")),
        "bare": str(save_encoder(root / "tiny-bert", "bert", words=False)),
    }


def test_words_at_masks_from_plan_to_answer(begin, folders, tmp_path):
    strategies = ["scratch", "best-source", "multitask", "mixture"]
    methods = ["dept", "adept", "prompt-tuning", "calibrated", "probe", "tfidf", "lora", "full"]
    options = {"backbone": folders["words"], "strategies": strategies, "methods": methods, **ONE}
    context, plan = begin(**options)
    planned = estimate(plan)
    done = transfer.stages(context, plan, work_here)
    assert (done.failed, done.not_run) == ({}, {})
    variants = {one.spec.variant: one for one in done.outcomes if one.spec.role == "target"}
    assert variants.keys() == {"untrained", *strategies, *methods} - {"dept"}
    assert sum(line.trials for line in planned.lines if line.stage == "targets") == len(variants)
    chosen = variants["best-source"]
    predictor = Predictor(load_adapter(context.store.fetch(chosen.adapter_key)), shared_backbone(folders["words"]))
    (answer,) = predictor.answers([{"text": "the film 7 was good"}])
    backbone = predictor.backbone
    (scores,) = score(backbone, [predictor.adapter], [Request("the film 7 was good :", predictor.words, 0)])
    assert answer.label == predictor.labels[scores.index(max(scores))]
    _numbers(begin, folders, tmp_path)


def _numbers(begin, folders, tmp_path):
    """A regression's numbers are words like others."""
    with (tmp_path / "stars.csv").open("w", newline="") as file:
        rows = [(f"the film {i} was {word}", stars) for i in range(30) for word, stars in (("good", 3), ("bad", 1))]
        csv.writer(file).writerows([("text", "label"), *rows])
    task = block(tmp_path / "stars.csv") | {"kind": "regression", "grid": {"low": 0, "high": 4, "step": 0.5}}
    del task["verbalizer"]
    options = {"own_tasks": {"stars": task}, "targets": ["stars"], "sources": [], "strategies": ["scratch"]}
    context, plan = begin(backbone=folders["words"], **options)
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    assert all("pearson" in one.test for one in done.outcomes)


def test_heads_alone_from_plan_to_answer(begin, folders):
    """Sources, what is tried for a start, and prompt tuning have heads too, though the plan asks for words."""
    strategies = ["scratch", "best-source", "similar", "prompt-only"]
    options = {"backbone": folders["bare"], "strategies": strategies, "methods": ["dept", "prompt-tuning", "probe"]}
    context, plan = begin(**options, **ONE)
    done = transfer.stages(context, plan, work_here)
    assert (done.failed, done.not_run) == ({}, {})
    made = [one for one in done.outcomes if one.spec.method != "probe"]
    assert {one.spec.adapter.answers for one in made} == {"head"}
    assert {one.spec.variant for one in made if one.spec.role == "target"} == {*strategies, "prompt-tuning"}
    d, heads = 32, 2 * (2 * 32 + 1)
    (scratch,) = [one for one in made if one.spec.variant == "scratch" and one.spec.role == "target"]
    assert scratch.trainable == 4 * d + (24 + d) * 2 + heads
    adapter = load_adapter(context.store.fetch(scratch.adapter_key))
    assert isinstance(adapter, Adapter)
    assert adapter.readout.weight == 1
    (answer,) = Predictor(adapter, shared_backbone(folders["bare"])).answers([{"text": "the film 7 was good"}])
    assert answer.label in ("no", "yes")
    _auto(begin, folders)


def _auto(begin, folders):
    """What `auto` tries has heads alone."""
    search = {"candidates": 2, "steps": 4, "rungs": [2], "eval_every": 2}
    context, plan = begin(backbone=folders["bare"], methods=["auto"], search=search, **ONE)
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    assert "auto" in {one.spec.variant for one in done.outcomes}
    tried = [
        one.adapter.answers
        for spec in done.searches.values()
        if spec.method == "dept"
        for one in spec.search.candidates
    ]
    assert set(tried) == {"head"}


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("words", {"engine": "deepspeed"}, "engine: deepspeed: .* which ranks do not share. Remedy: engine: local"),
        ("words", {"methods": ["in-context"]}, "methods: in-context: .* continues no shots"),
        ("bare", {"methods": ["dept", "lora"]}, "methods: lora: backbone tiny-bert has no masked-LM head"),
        ("bare", {"methods": ["calibrated"]}, "methods: calibrated: backbone tiny-bert has no masked-LM head"),
        ("bare", {"strategies": ["multitask"]}, "strategies: multitask: .*tasks share none"),
        ("bare", {"strategies": ["source:food"], "zero_shot": True}, "zero_shot: .*tasks share none"),
    ],
)
def test_what_an_encoder_cannot_do_is_said_before_any_work(make_plan, folders, kind, changes, told):
    plan = load_plan(make_plan(backbone=folders[kind], **changes))
    for ask in (open_plan, estimate):
        with pytest.raises(InputError, match=told) as caught:
            ask(plan)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("words", {"kind": "generation"}, "task film: .* writes no answers. Remedy: a causal"),
        ("bare", {"kind": "regression", "grid": {"low": 0, "high": 9, "step": 1}}, "task film: asks for a number, and"),
    ],
)
def test_tasks_that_an_encoder_cannot_do(make_plan, folders, tmp_path, kind, changes, told):
    (tmp_path / "few.csv").write_text("text,label\n" + "".join(f"the film {i} was good,{i % 9}\n" for i in range(40)))
    task = block(tmp_path / "few.csv") | changes
    del task["verbalizer"]
    options = {"own_tasks": {"film": task}, "targets": ["film"], "sources": [], "strategies": ["scratch"]}
    with pytest.raises(InputError, match=told):
        estimate(load_plan(make_plan(backbone=folders[kind], **options)))
