"""Plans with probe, TF-IDF and adapters that have heads, end to end on a tiny backbone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.backbones.describe import describe
from dept.backbones.shared import shared_backbone
from dept.baselines.linear import Chosen, log_probs
from dept.baselines.probe import DEPTHS, Probe, train_head
from dept.baselines.tfidf import WAY, Tfidf, contents, train_tfidf
from dept.batches.tokenise import Row
from dept.config import AdapterConfig, TrainConfig
from dept.constants import PULL
from dept.engine.evaluate import summarise
from dept.engine.features import features
from dept.engine.readout import temper
from flows import transfer
from flows.execution import linear, reading
from flows.execution.open import check_methods
from flows.execution.rows import examples_of, of_task, rows_of
from flows.planning.plan_file import load_plan
from flows.planning.trials import Inputs, target_specs
from infra.errors import InputError
from registry.serving import load_champion
from tasks.catalogue import catalogue
from tasks.draws import subset
from tasks.load import load_splits
from tests.flows.test_searches import SEARCH

BOTH = {"m": 4, "r": 2, "s": 24, "answers": "both"}


def by_variant(context):
    found = {}
    for row in context.ledger.find(status="finished"):
        found.setdefault((row.kind, row.role, row.trial_spec.variant), []).append(row)
    return found


def test_linear_baselines_end_to_end(begin, monkeypatch):
    """Same draws, same rows, same test; each row is read once, however many trials ask for it."""
    monkeypatch.setattr(reading, "_kept", type(reading._kept)())
    read = []
    monkeypatch.setattr(
        "flows.execution.engines.features",
        lambda *given, **named: read.append(len(given[1])) or features(*given, **named),
    )
    context, plan = begin(methods=["dept", "probe", "tfidf"], strategies=["scratch"], shots=[4], seeds=[0, 1])
    done = transfer.stages(context, plan, transfer.work_here)
    assert done.failed == {}
    rows = by_variant(context)
    probes, words = (rows["train", "target", method] for method in ("probe", "tfidf"))
    assert len(probes) == len(words) == 4
    texts = set()
    for row in probes:
        spec, folder = row.trial_spec, context.store.fetch(row.adapter_key)
        shots, checks = (rows_of(context, part, spec.adapter) for part in examples_of(context, spec))
        tested = subset(context.splits[spec.task].test, spec.test_rows, 0)
        tests = rows_of(context, of_task(spec.task, tested), spec.adapter)
        texts |= {part.source for part in (*shots, *checks, *tests)}
        probe, backbone = Probe.load(folder), context.backbone.backbone
        scores = probe.score(features(backbone, [(0, part) for part in tests], DEPTHS))
        assert row.outcome["test"]["accuracy"] == summarise(scores, tests)["accuracy"]
        assert row.outcome["test"]["loss"] == pytest.approx(summarise(scores, tests)["loss"], abs=1e-4)
        assert row.outcome["validation"] == probe.validation
        assert row.outcome["extra"]["readout"]["temperature"] == probe.chosen.readout.temperature
        assert row.outcome["extra"]["readout"]["loss"] == probe.validation["loss"]
        assert row.outcome["trainable"] == probe.trainable > 0
        assert row.outcome["steps_done"] == row.outcome["best_step"] == 0
        assert set(row.outcome["extra"]["refit"]) == set(row.outcome["test"])
        assert row.outcome["extra"]["chosen"].startswith("layers ")
        assert context.tracker.ask("get_run", row.mlflow_run_id).data.metrics["test/accuracy"] == pytest.approx(
            row.outcome["test"]["accuracy"]
        )
    assert sum(read) == len(texts)
    for row in words:
        spec = row.trial_spec
        tested = subset(context.splits[spec.task].test, spec.test_rows, 0)
        made = Tfidf.load(context.store.fetch(row.adapter_key))
        scores = made.score(contents([one.text for one in tested], context.tasks[spec.task].template))
        expected = np.mean([line.index(max(line)) == one.label for line, one in zip(scores, tested, strict=True)])
        assert row.outcome["test"]["accuracy"] == pytest.approx(100 * expected)
    monkeypatch.setattr(linear, "train_probe", None)
    assert transfer.stages(context, plan, transfer.work_here).failed == {}, "nothing is trained again"


@pytest.mark.parametrize("calibration", ["choose", "none"])
def test_a_search_compares_by_the_loss_of_honest_answers(begin, calibration):
    """Written out: fitted on each half of a draw, asked about the other; leave-one-out over all rows, if at all."""
    context, plan = begin(
        methods=["tfidf"],
        strategies=["scratch"],
        targets=["film"],
        sources=[],
        shots=[16],
        search=SEARCH,
        calibration=calibration,
    )
    assert transfer.stages(context, plan, transfer.work_here).failed == {}
    by = by_variant(context)
    (found,), (target,) = by["search", "search", "tfidf"], by["train", "target", "tfidf"]
    shots, checks = examples_of(context, found.trial_spec)
    rows = [example for _, example in (*shots, *checks)]
    template, gold = context.tasks["film"].template, [example.label for example in rows]
    texts = contents([example.text for example in rows], template)
    losses = []
    for option in WAY.options:
        scores = []
        for held in (range(16), range(16, 32)):  # the order of `folds_of`
            known = [place for place in range(32) if place not in held]
            given = [Row((), ((0,),) * 2, gold[place], 0) for place in known]
            fitted = train_tfidf([texts[place] for place in known], given, [], [], Chosen(option))
            scores += fitted.score([texts[place] for place in held])
        plain = float(np.mean([-line[label] for line, label in zip(scores, gold, strict=True)]))
        losses.append(plain if calibration == "none" else temper(scores, gold, PULL)[1]["loss"])
    assert found.outcome["validation"]["loss"] == pytest.approx(min(losses))
    assert [one["losses"][0][1] for one in found.outcome["extra"]["search"]["tried"]] == pytest.approx(losses)
    kept = Tfidf.load(context.store.fetch(target.adapter_key))
    assert ("readout" in target.outcome["extra"]) == (calibration == "choose")
    assert calibration == "choose" or kept.chosen.readout.plain


def test_what_is_kept_has_a_bound(begin, monkeypatch):
    context, _ = begin(methods=["probe"], strategies=["scratch"], targets=["film"])
    monkeypatch.setattr(reading, "_kept", type(reading._kept)())
    monkeypatch.setattr(reading, "MOST_BYTES", 4 * 32 * 3)  # three rows at one depth
    rows = rows_of(context, of_task("film", context.splits["film"].test[:5]), AdapterConfig(s=24))
    found = reading.features_of(context, [*rows, rows[0]], (1.0,))
    assert torch.equal(found[0], found[5])
    assert len(reading._kept) == 3
    torch.testing.assert_close(reading.features_of(context, rows, (1.0,)), found[:5])


@pytest.mark.parametrize("answers", ["head", "both"])
def test_an_adapter_with_a_head_starts_as_a_probe_of_its_own_pass(begin, answers):
    """A whole plan: sources have no head, targets start with one, train it, are stored with it and answer with it."""
    shape = {**BOTH, "answers": answers}
    context, plan = begin(adapter=shape, strategies=["scratch", "best-source"], targets=["film"], probe_steps=2)
    none = {"steps": 0, "batch_size": 4}
    done = transfer.stages(
        context, plan.model_copy(update={"scratch_training": TrainConfig(**none)}), transfer.work_here
    )
    assert done.failed == {}
    rows = by_variant(context)
    for (kind, role, variant), found in rows.items():
        headed = kind == "train" and role == "target" and variant != "untrained"
        assert all((row.trial_spec.adapter.answers == answers) == headed for row in found), (kind, role, variant)
    backbone = shared_backbone(context.backbone_name, context.dtype, context.device)
    labels = len(context.tasks["film"].words)
    (scratch,) = rows["train", "target", "scratch"]
    (moved,) = rows["train", "target", "best-source"]
    assert scratch.outcome["trainable"] == labels * (2 * context.d + 1)
    assert moved.outcome["trainable"] == AdapterConfig(**shape).trainable(context.d, labels)
    for row in (scratch, moved):
        adapter = Adapter.load(context.store.fetch(row.adapter_key))
        assert answers == "both" or (adapter.readout.weight, adapter.readout.bias) == (1.0, ())
        assert (adapter.config.shape, adapter.layers) == (row.trial_spec.adapter.shape, row.trial_spec.adapter.layers)
    start = Adapter.load(context.store.fetch(scratch.adapter_key))
    shots, checks = (rows_of(context, part, start.config) for part in examples_of(context, scratch.trial_spec))
    bare = Adapter(start.prompt, start.a, start.b, start.alpha, start.layout)
    read = context.backbone.features([(0, row) for row in shots], start.layers, [bare])
    torch.testing.assert_close(start.head.mean, read.mean(0), atol=1e-4, rtol=1e-4)
    found = context.backbone.features([(0, row) for row in checks], start.layers, [bare])
    if answers == "head":
        expected = summarise(
            [start.readout.answer([0.0] * labels, line) for line in log_probs(start.head, found)], checks
        )
        assert scratch.outcome["validation"]["loss"] == pytest.approx(expected["loss"], abs=1e-3)
    assert backbone.d == context.d
    transfer.register(context, done.outcomes, transfer.work_here)
    answered = load_champion("film").predict(["the film 3 was very good", "the film 4 was awful"])
    assert answered[["negative", "positive"] if "negative" in answered else list(answered)[1:]].sum(
        axis=1
    ).tolist() == (pytest.approx([1.0, 1.0]))


def test_rates_are_tried_from_one_head(begin, monkeypatch):
    context, plan = begin(
        adapter=BOTH, strategies=["scratch"], targets=["film"], rates={"dept": [0.01, 0.02, 0.05]}, search_draws=1
    )
    fitted = []
    monkeypatch.setattr(
        "flows.execution.heads.train_head",
        lambda *given: fitted.append(len(given[1])) or train_head(*given),
    )
    assert transfer.stages(context, plan, transfer.work_here).failed == {}
    assert len(fitted) == 2, "one of the draw that rates are chosen on, one of the draw that is tested"


def test_only_dept_has_a_head(make_plan):
    plan = load_plan(make_plan(adapter=BOTH, methods=["dept", "prompt-tuning", "in-context", "probe", "tfidf"]))
    tasks = plan.resolve_tasks()
    inputs = Inputs(tasks, {name: load_splits(task) for name, task in tasks.items()}, "0" * 64, 32)
    plan = plan.model_copy(update={"strategies": ["scratch"]})
    specs = target_specs(plan, inputs, {})
    assert {spec.variant for spec in specs if spec.adapter.reads} == {"scratch"}
    short = target_specs(plan.model_copy(update={"adapter": AdapterConfig(m=7, r=3, s=24)}), inputs, {})
    same = {spec.fingerprint for spec in specs} & {spec.fingerprint for spec in short}
    assert len(same) == 2 * 2 * 2, "a linear baseline has no P, A or B"


def test_a_probe_reads_as_far_as_it_can(make_plan, tiny_folders):
    """512 tokens of a text, no less than an adapter does, no more than the backbone can; TF-IDF reads no tokens."""
    plan = load_plan(make_plan(methods=["probe", "tfidf"], strategies=["scratch"], targets=["film"], seeds=[0]))
    tasks = plan.resolve_tasks()
    splits = {name: load_splits(task) for name, task in tasks.items()}

    def specs(s, room=None):
        adapter = plan.adapter.model_copy(update={"s": s})
        inputs = Inputs(tasks, splits, "0" * 64, 32, room=room)
        return target_specs(plan.model_copy(update={"adapter": adapter}), inputs, {})[-2:]

    assert [specs(s, room)[0].adapter.s for s, room in ((24, None), (600, None), (24, 100), (128, 100))] == [
        *(512, 600, 100, 128)  # the last is refused for its adapters
    ]
    assert len({spec.fingerprint for s in (24, 48) for spec in specs(s)}) == 2
    found = {family: describe(str(folder)) for family, folder in tiny_folders.items()}
    assert found["t5"].positions is None, "its positions are relative"
    assert found["gpt2"].positions < 512


def test_a_backbone_of_few_positions_is_read_to_their_end(begin, tiny_folders):
    context, plan = begin(
        backbone=str(tiny_folders["gpt2"]), methods=["probe"], strategies=["scratch"], targets=["film"], sources=[]
    )
    long = [replace(row, text="very " * 500 + row.text) for row in context.splits["film"].train]
    context.splits["film"] = replace(context.splits["film"], train=tuple(long))
    done = transfer.stages(context, plan, transfer.work_here)
    assert done.failed == {}
    (probe,) = [outcome for outcome in done.outcomes if outcome.spec.method == "probe"]
    assert probe.spec.adapter.s == context.room
    assert probe.cut_rows == 8, "shots and validation rows"
    assert probe.tokens > 8 * (context.room - 10)


def test_what_is_no_class_is_refused_early(make_plan):
    tasks = catalogue()
    plan = load_plan(make_plan(methods=["tfidf"]))
    for name, said in (("stsb", "asks for a number"), ("squad", "answered by generation")):
        asked = plan.model_copy(update={"targets": [name]})
        with pytest.raises(InputError, match=f"tfidf .*; {name} .*{said}"):
            check_methods(asked, tasks)
        headed = asked.model_copy(update={"methods": ["dept"], "adapter": AdapterConfig(answers="head")})
        with pytest.raises(InputError, match=f"answers: head .*{name} .*{said}"):
            check_methods(headed, tasks)
        check_methods(headed.model_copy(update={"adapter": AdapterConfig()}), tasks)
