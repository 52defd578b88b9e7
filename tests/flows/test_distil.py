"""One adapter learns to answer as several do: planned, taught, trained, kept, judged, reported."""

from dataclasses import replace

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.baselines.answering import load_answering
from dept.config import TrainConfig
from dept.engine.evaluate import score_rows
from dept.readout import mean_answers
from dept.trial import TrialSpec
from flows import transfer
from flows.execution import training
from flows.execution.distilling import teacher_of
from flows.execution.rows import examples_of, rows_of
from flows.execution.settle import work_here
from flows.planning.cost import estimate
from flows.planning.distilled import distilled_specs
from flows.planning.ensembles import together as answering
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan
from flows.reporting.answers import together
from flows.reporting.html import write_report
from flows.reporting.summary import summary_rows
from registry.ledger import Ledger
from registry.promotion.choose import may_stand
from tests.registry.ledger_helpers import make_outcome, make_spec

ALONE = {"sources": [], "strategies": ["scratch"], "targets": ["film"], "distil": True}
STARTS = {**ALONE, "methods": ["dept", "prompt-tuning", "calibrated"], "ensemble": 2, "ensemble_of": "starts"}


def of_kind(done, kind):
    return [outcome for outcome in done.outcomes if outcome.spec.kind == kind]


def distilled(done):
    return [outcome for outcome in done.outcomes if outcome.spec.teacher_sha256]


@pytest.fixture
def trained_on(monkeypatch):
    """Rows of each trial, by its key, as they came to the stack."""
    seen, make = {}, training.Trial

    def spy(key, start, config, rows, validation, *rest):
        seen[key] = (start, rows, validation)
        return make(key, start, config, rows, validation, *rest)

    monkeypatch.setattr(training, "Trial", spy)
    return seen


def test_of_several_seeds_one_adapter_learns(begin, trained_on, tmp_path):
    """Soft labels are the mean of its members' log-probabilities; a second run trains nothing anew."""
    context, plan = begin(ensemble=3, seeds=[0, 1, 2], **ALONE)
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    (ensemble,), (found,) = of_kind(done, "ensemble"), distilled(done)
    members = [o for o in of_kind(done, "train") if o.spec.init == "scratch" and o is not found]
    assert {o.adapter_sha256 for o in members} == set(ensemble.spec.sources)
    best = min(members, key=lambda o: o.validation["loss"])
    assert (found.spec.variant, found.spec.source_sha256) == ("distilled:scratch", best.adapter_sha256)
    assert (found.spec.teacher_sha256, found.spec.seed) == (ensemble.adapter_sha256, best.spec.seed)
    assert found.spec.training.lr_prompt == plan.transfer_training.lr_prompt

    start, rows, validation = trained_on[found.spec.fingerprint]
    parts = [Adapter.load(context.store.fetch(o.adapter_key)) for o in members]
    assert torch.equal(start.prompt, next(p for p in parts if p.sha256 == best.adapter_sha256).prompt)
    backbone = context.backbone.backbone
    plain = rows_of(context, examples_of(context, best.spec)[0], plan.adapter)  # its own draw's, and no others
    alone = [score_rows(backbone, Tensors.of([p], backbone.device), [(0, row) for row in plain]) for p in parts]
    for row, own, logs in zip(rows, plain, mean_answers(alone), strict=True):
        assert (row.source, row.gold) == (own.source, own.gold)
        assert row.soft == pytest.approx(torch.tensor(logs).exp().tolist(), abs=1e-5)

    teacher = teacher_of(context, found.spec)
    learned = {id for o in members for id in shots_of(context, o.spec)}
    assert set(teacher.drawn["shots"]) == learned
    checked = [example for example in examples_of(context, best.spec)[1] if example[1].id not in learned]
    assert [row.source for row in validation] == [row.source for row in rows_of(context, checked, plan.adapter)]
    assert all(not row.soft for row in validation)
    kept = load_answering(context.store.fetch(found.adapter_key))
    assert isinstance(kept, Adapter)
    assert set(kept.metadata["drawn"]["shots"]) == learned
    assert kept.metadata["source_sha256"] == best.adapter_sha256
    assert found.test["accuracy"] >= 0
    assert may_stand(found)
    assert found.spec.variant in summary_rows(done.outcomes)[0].cells
    page = write_report(tmp_path, "tiny", plan.model_dump(mode="json"), done.outcomes).read_text(encoding="utf-8")
    (line,) = together(done.outcomes)
    assert line.distilled == found.test["score"]
    for told in ("distilled:scratch", '<th scope="col">Distilled</th>'):
        assert told in page
    assert f"learned their answers was worth {line.distilled - line.mean_member:+.1f}." in page
    unmoved = replace(found, adapter_sha256=best.adapter_sha256, test=dict.fromkeys(best.test, -1.0))
    assert together([*members, ensemble, unmoved])[0].mean_member >= 0  # it is no member, even if it is still its start

    again = transfer.stages(context, plan, work_here)
    assert [o.adapter_sha256 for o in distilled(again)] == [found.adapter_sha256]
    assert {row.attempt for row in Ledger.open().find()} == {1}


def shots_of(context, spec):
    return [example.id for _, example in examples_of(context, spec)[0]]


def test_a_distilled_adapter_becomes_champion(begin):
    context, plan = begin(**STARTS)
    done = transfer.stages(context, plan, work_here)
    (found,) = distilled(done)
    assert found.spec.variant == "distilled"
    assert found.spec.adapter.shape == plan.adapter.shape  # of members of several shapes the one as planned
    (decision,) = transfer.register(context, [found], work_here)
    assert decision["decision"].startswith("first")


def test_of_refits_no_row_is_left_to_validate(begin, trained_on):
    """All 2k rows are learned from; what stands for the ensemble stands for the adapter."""
    search = {"candidates": 2, "steps": 4, "eval_every": 2, "rungs": [2]}
    context, plan = begin(**{**ALONE, "seeds": [0, 1], "ensemble": 2}, search=search)
    done = transfer.stages(context, plan, work_here)
    (ensemble,), (found,) = of_kind(done, "ensemble"), distilled(done)
    assert found.spec.refit
    _, rows, validation = trained_on[found.spec.fingerprint]
    assert (len(rows), len(validation)) == (2 * 4, 0)
    assert found.validation == ensemble.validation
    assert found.adapter_sha256 not in ensemble.spec.sources
    assert (found.best_step, found.spec.searched) == (plan.transfer_training.steps, None)


def test_a_teacher_that_is_lost_is_put_together_again(begin):
    context, plan = begin(ensemble=2, seeds=[0, 1], **ALONE)
    first = transfer.stages(context, plan, work_here)
    (ensemble,), (found,) = of_kind(first, "ensemble"), distilled(first)
    for outcome in (ensemble, found):
        place = context.store.fetch(outcome.adapter_key)
        next(place.rglob("*.safetensors")).write_bytes(b"nothing")
    (healed,) = distilled(transfer.stages(context, plan, work_here))
    assert healed.adapter_key != found.adapter_key
    assert (healed.adapter_sha256, healed.test) == (found.adapter_sha256, found.test)


def test_a_dry_run_counts_what_is_distilled(make_plan):
    plan = load_plan(make_plan(ensemble=2, seeds=[0, 1, 2], **ALONE))
    lines = {line.stage: line for line in estimate(plan).lines}
    targets = next(line for line in estimate(plan).lines if line.variant == "scratch")
    (found, steps) = lines["distilled"], plan.transfer_training.steps
    assert (found.trials, found.steps, found.variant) == (1, steps, "distilled:scratch")
    assert found.numbers == targets.numbers[:1]
    assert found.trained == pytest.approx(targets.trained / 3)
    # Two members answer its 4 rows first; what else a trial of as many steps reads, the others read as well.
    assert found.evaluated == pytest.approx(targets.evaluated / 3 + 2 * 4 * found.trained / (steps * 4))
    assert "distilled" not in {line.stage for line in estimate(plan.model_copy(update={"distil": False})).lines}


def test_what_auto_puts_together_is_distilled_too(make_plan):
    search = {"candidates": 4, "steps": 4, "eval_every": 2, "rungs": [2], "together": 3}
    plan = load_plan(make_plan(**{**ALONE, "methods": ["auto"], "seeds": [0, 1]}, search=search))
    lines = {(line.stage, line.variant): line for line in estimate(plan).lines}
    found = lines["distilled", "distilled:auto"]
    assert (found.trials, found.steps) == (2, 2 * plan.transfer_training.steps)


@pytest.mark.parametrize("steps", [4, 0])
def test_it_learns_at_the_rates_that_were_found_for_the_member_it_starts_from(make_plan, steps):
    """Of an untrained one none were found."""
    plan = load_plan(make_plan(**{**ALONE, "methods": ["auto"]}))
    found = [TrainConfig(steps=steps, lr_prompt=0.3 + n, lr_low_rank=0.02 + n, lr_head=0.7 + n) for n in (0, 1)]
    kind = {"task": "film", "role": "search", "searched": "5" * 64, "adapter": plan.adapter}
    specs = [make_spec(**kind, training=training) for training in found]
    members = [replace(make_outcome(spec), adapter_sha256=str(n) * 64) for n, spec in enumerate(specs)]
    joint = answering(specs, [one.adapter_sha256 for one in members], role="target", init="auto", searched="5" * 64)
    (spec,) = distilled_specs(plan, [*members, replace(make_outcome(joint), adapter_sha256="e" * 64)], {})
    assert spec.source_sha256 == members[0].adapter_sha256
    rates = found[0] if steps else plan.transfer_training
    for name in ("lr_prompt", "lr_low_rank", "lr_head"):
        assert getattr(spec.training, name) == getattr(rates, name)
    assert (spec.training.steps, spec.training.last) == (plan.transfer_training.steps, None)


def test_variants_of_a_named_source_keep_its_name(make_plan):
    named = {**ALONE, "strategies": ["source:food"], "sources": ["food"]}
    found = estimate(load_plan(make_plan(ensemble=2, seeds=[0, 1], **named)))
    assert {"ensemble:source:food", "distilled:source:food"} <= {line.variant for line in found.lines}


def test_what_is_asked_wrongly_is_said():
    plan = {"name": "x", "targets": ["a"], "strategies": ["scratch"], "distil": True}
    with pytest.raises(ValueError, match="distil: there is no ensemble"):
        Plan(**plan, methods=["dept"])
    with pytest.raises(ValueError, match=r"distil: auto answers with one adapter \(search: together: 1\)"):
        Plan(**plan, methods=["auto"], search={"together": 1})
    assert Plan(**plan, methods=["auto"], search={"together": 2}).distil
    assert Plan(**plan, methods=["auto", "dept"], search={"together": 1}, ensemble=2, seeds=[0, 1]).distil


def test_a_teacher_is_part_of_the_question_and_none_changes_nothing():
    plain, taught = make_spec(), make_spec(teacher_sha256="e" * 64)
    assert plain.fingerprint != taught.fingerprint
    assert taught.needed == ("e" * 64,)
    older = {key: value for key, value in plain.model_dump(mode="json").items() if key != "teacher_sha256"}
    assert TrialSpec.model_validate(older | {"schema_version": 5}).fingerprint == plain.fingerprint
