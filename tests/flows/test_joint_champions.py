"""Several adapters that `auto` chose are one champion: registered, served, judged, put together again, renewed."""

import json
import shutil
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import torch

from dept.config import TrainConfig
from flows import transfer
from flows.execution import measure
from flows.execution.challengers import renewed, train_challengers
from flows.execution.judge import judge
from flows.execution.settle import work_here
from flows.planning.retraining import Retraining, Stale
from flows.reporting.html import markdown
from flows.reporting.protocol import REFIT
from registry.promotion.choose import may_stand
from registry.promotion.lookup import champion
from registry.serving import Predictor, load_adapter, load_champion
from tests.flows.report_helpers import no_plots  # noqa: F401
from tests.flows.test_report import Page

SEARCH = {"candidates": 3, "steps": 4, "eval_every": 2, "rungs": [2], "together": 2}
PLAN = {"methods": ["auto"], "sources": [], "strategies": ["scratch"], "targets": ["film"], "search": SEARCH}
TEXTS = ["the film 3 was very good", "the film 4 was awful", "the film 5 was not so bad"]


@pytest.fixture
def stages(begin, monkeypatch):
    """The stages of a plan of one draw, of which as many answer together as may: context and what was done."""
    monkeypatch.setattr("dept.engine.together.plainest", lambda losses: 0)
    monkeypatch.setattr("flows.planning.searches.LINEAR", ())

    def stages(seed=0, **changes):
        context, plan = begin(**{**PLAN, "seeds": [seed], **changes})
        done = transfer.stages(context, plan, work_here)
        assert done.failed == {}
        return context, done

    return stages


@pytest.fixture
def crowned(stages):
    """A first run whose joint trial is champion: context, what was done, the joint trial's outcome."""
    context, done = stages()
    (row,) = judge(context, done.outcomes)
    joint = joint_of(done)
    assert (row.decision, row.challenger_fingerprint) == ("first", joint.spec.fingerprint)
    return context, done, joint


def joint_of(done):
    (joint,) = [one for one in done.outcomes if one.spec.variant == "auto"]
    assert joint.spec.kind == "ensemble"
    assert joint.spec.sources == tuple(one.adapter_sha256 for one in done.members)
    assert len(done.members) == 2
    return joint


def champion_of(context):
    return champion(context.ledger, context.tracker, "film", context.backbone_id)


@pytest.fixture
def scored(monkeypatch):
    """Rows and the log-probabilities of their labels, of each test and evaluation."""
    seen, of_scores = [], measure.of_scores

    def spy(task, examples, rows, scores):
        seen.append((list(examples), torch.tensor(scores, dtype=torch.float64).softmax(1).tolist()))
        return of_scores(task, examples, rows, scores)

    monkeypatch.setattr(measure, "of_scores", spy)
    return seen


def test_it_is_registered_and_serves_what_was_tested(scored, crowned, monkeypatch):
    context, _, joint = crowned
    rows, tested = scored[-1]  # the untrained backbone was tested before it
    assert len(rows) == joint.spec.test_rows
    served = load_champion("film")
    answers = served.answers([{"text": example.text.removesuffix(" :")} for example in rows])
    for answer, line in zip(answers, tested, strict=True):
        assert answer.probabilities == pytest.approx(line, abs=1e-6)
    right = [answer.label == served.labels[example.label] for answer, example in zip(answers, rows, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(joint.test["accuracy"])
    assert [one.sha256 for one in served.adapter.members] == list(joint.spec.sources)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", context.tracker.uri)
    stored = mlflow.pyfunc.load_model(f"models:/{champion_of(context).name}@champion")
    pd.testing.assert_frame_equal(
        stored.predict(pd.DataFrame({"text": TEXTS})), served.predict(TEXTS), check_exact=True
    )


def test_it_is_judged_on_rows_that_nobody_has_seen(crowned, stages):
    context, _, first = crowned
    context, done = stages(seed=1)
    (row,) = judge(context, done.outcomes)
    joint = joint_of(done)
    assert (row.champion_fingerprint, row.challenger_fingerprint) == (first.spec.fingerprint, joint.spec.fingerprint)
    assert row.rows > 0, row.reason
    evaluated = {one.trial_spec.source_sha256: one.trial_spec for one in context.ledger.find(kind="evaluate")}
    assert set(evaluated) == {first.adapter_sha256, joint.adapter_sha256}
    for one in (first, joint):
        kept = load_adapter(context.store.fetch(one.adapter_key), one.adapter_sha256)
        drawn = {name for part in kept.metadata["drawn"].values() for name in part}
        assert len(drawn) == 2 * 4
        for spec in evaluated.values():
            assert drawn.isdisjoint(spec.row_ids)


@pytest.mark.parametrize("everything", [False, True])
def test_it_is_put_together_again_when_it_is_lost(crowned, stages, everything):
    """By another run, while its members are there; by its own plan where a member is lost as well."""
    context, done, joint = crowned
    before = load_champion("film").predict(TEXTS)
    shutil.rmtree(context.store.fetch(joint.adapter_key))
    if everything:
        shutil.rmtree(context.store.fetch(done.members[0].adapter_key))
    pd.testing.assert_frame_equal(load_champion("film").predict(TEXTS), before)  # MLflow's copy
    context, done = stages(seed=0 if everything else 1)
    (row,) = judge(context, done.outcomes)
    assert everything or row.rows > 0, row.reason
    assert champion_of(context).fingerprint == joint.spec.fingerprint
    again = context.ledger.outcome(joint.spec.fingerprint)
    assert again.adapter_key != joint.adapter_key
    assert (again.adapter_sha256, again.validation, again.test) == (joint.adapter_sha256, joint.validation, joint.test)
    same = Predictor(load_adapter(context.store.fetch(again.adapter_key), again.adapter_sha256))
    pd.testing.assert_frame_equal(same.predict(TEXTS), before)
    assert load_champion("film").note == ""


def test_what_renews_it_is_made_as_its_first_member_was(crowned, monkeypatch):
    context, done, joint = crowned
    stale = Stale(task="film", fingerprint=joint.spec.fingerprint, reasons=["old"], only_old=True)
    spec, first = renewed(context, stale), next(one.spec for one in done.members if one.spec.training.steps)
    assert (spec.kind, spec.role, spec.seed, spec.sources, spec.refit) == ("train", "challenger", 1, (), False)
    assert (spec.adapter, spec.training) == (first.adapter, first.training)
    order = Retraining(backbone=context.backbone_name)
    made = train_challengers(context, order, [stale], work_here)
    assert made.failed == {}
    (outcome,) = made.outcomes
    assert may_stand(outcome)
    (row,) = judge(context, made.outcomes)
    assert row.champion_fingerprint == joint.spec.fingerprint
    assert row.rows > 0, row.reason

    parts = [first.model_copy(update={"training": TrainConfig(steps=steps)}) for steps in (0, 3)]
    rows = dict(
        zip(joint.spec.sources, (SimpleNamespace(trial_spec=one, unreadable=None) for one in parts), strict=True)
    )
    monkeypatch.setattr(context.ledger, "by_sha256", rows.get)
    assert renewed(context, stale).training == parts[1].training  # the first that was trained
    monkeypatch.setattr(context.ledger, "by_sha256", lambda sha256: None)
    assert renewed(context, stale).kind == "train"


def test_an_untrained_prompt_that_auto_chose_is_renewed_too(stages, monkeypatch):
    monkeypatch.setattr("flows.planning.searches.candidates", lambda *_: ())
    context, done = stages()
    (first,) = judge(context, done.outcomes)
    (auto,) = [one for one in done.outcomes if one.spec.variant == "auto"]
    assert (first.challenger_fingerprint, auto.spec.training.steps) == (auto.spec.fingerprint, 0)
    stale = Stale(task="film", fingerprint=auto.spec.fingerprint, reasons=["old"], only_old=True)
    made = train_challengers(context, Retraining(backbone=context.backbone_name), [stale], work_here).outcomes
    assert [(one.spec.method, may_stand(one)) for one in made] == [("calibrated", True)]


@pytest.mark.usefixtures("no_plots")
def test_a_report_tells_what_it_cost_and_by_which_rows_it_was_chosen(stages, monkeypatch):
    context, done = stages()
    joint_of(done)
    page = transfer.report(context, context.order, done, [], "2026-11-26T08:00:00+00:00")
    kept = {one["adapter_sha256"]: one for one in json.loads((page.parent / "report.json").read_text())["outcomes"]}
    for member in done.members:
        assert kept[member.adapter_sha256]["spec"]["training"] == member.spec.training.model_dump(mode="json")
    said = Page(page.read_text(encoding="utf-8")).text
    assert REFIT in said
    assert REFIT in markdown("x", done.outcomes + done.members)
    assert "1 more trial chose starts, rates and recipes" in said  # neither the members nor the joint trial
    for member in done.members:
        assert f"film k = 4, seed 0, auto, together: {member.spec.variant} {member.steps_done} " in said
    assert "film k = 4, seed 0, auto " not in said  # it trains nothing of its own
    monkeypatch.setattr("flows.reporting.html.MOST", 2)  # lines, of three trials: they are summed up
    page = transfer.report(context, context.order, done, [], "2026-11-26T08:00:00+00:00")
    said = Page(page.read_text(encoding="utf-8")).text
    assert f"auto, together: {done.members[0].spec.variant} 4 " in said
