"""Searches on a tiny backbone: done by workers, resumed after a kill, and what they find is trained on all rows."""

import json

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.baselines.ensemble import Ensemble
from dept.engine.evaluate import summarise
from dept.engine.together import Decided
from dept.readout import Readout
from flows import transfer
from flows.execution.rows import rows_of
from flows.execution.rows import tests_of as asked_of  # not a test
from flows.execution.searching import folds_of
from flows.execution.settle import work_here
from flows.execution.starts import start_of
from flows.planning.check import check
from flows.planning.places import Draw, Origin, to_start
from flows.planning.plan_file import load_plan
from flows.planning.searches import searches
from flows.planning.trials import Inputs
from flows.reporting.searched import told_searches
from infra.errors import InputError
from tests.dept.test_search import KilledError, die  # noqa: F401
from tests.flows.test_searches import SEARCH

PLAN = {"targets": ["film"], "search": {**SEARCH, "candidates": 4}, "register": False}


def by_kind(context, kind):
    return [context.ledger.outcome(row.fingerprint) for row in context.ledger.find(kind=kind, status="finished")]


def test_folds_swap_the_rows_of_a_draw(begin):
    context, plan = begin(**PLAN)
    (spec,) = transfer.searches(
        plan, context.inputs, {}, to_start(plan)
    ).values()  # without sources: from scratch alone
    (first, second), (third, fourth) = folds_of(context, spec)
    assert (first, second) == (fourth, third)
    assert len(first) == len(second) == 4
    assert not {row.id for _, row in first} & {row.id for _, row in second}
    alone = spec.model_copy(update={"search": spec.search.model_copy(update={"folds": 1})})
    assert folds_of(context, alone) == [(second, first)]


def test_a_search_is_done_and_what_it_found_is_trained_on_all_rows(begin):
    context, plan = begin(**PLAN)
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    assert not done.not_run
    searches = by_kind(context, "search")
    assert len(searches) == 2  # scratch and best-source
    targets = {o.spec.variant: o for o in done.outcomes if o.spec.role == "target" and o.spec.init != "untrained"}
    assert set(targets) == {"scratch", "best-source"}
    for found in searches:
        told = found.extra["search"]
        target = targets[found.spec.init]
        best = told["tried"][told["winner"]]
        assert found.validation == target.validation
        assert target.spec.readout == Readout.of(told["readouts"][str(told["winner"])])
        kept = Adapter.load(context.store.fetch(target.adapter_key)).readout
        assert kept == (None if target.spec.readout.plain else target.spec.readout)
        assert target.extra["readout"]["temperature"] == target.spec.readout.temperature
        assert found.best_step == best["best_step"] == target.spec.training.end == target.steps_done == target.best_step
        assert found.steps_done == told["steps"] > 0
        assert found.tokens > 0
        assert not found.test
        assert found.adapter_key == ""
        assert target.test
        assert found.validation["loss"] == pytest.approx(found.extra["readout"]["loss"])
        assert "raws" not in told  # rows times labels of each candidate would fill the ledger
        drawn = json.loads((context.store.fetch(target.adapter_key) / "adapter.json").read_text())["metadata"]["drawn"]
        assert (len(drawn["shots"]), drawn["validation"]) == (8, [])
        assert not target.validation_curve


def test_a_killed_search_goes_on_in_the_next_worker(begin, die, monkeypatch):  # noqa: F811
    monkeypatch.setattr("flows.execution.searching.CHECKPOINT_SECONDS", 0.0)
    context, plan = begin(**PLAN, strategies=["scratch"], sources=[])
    made = die()
    transfer.stages(context, plan, work_here)
    (whole,), steps = by_kind(context, "search"), made[0]
    context.ledger.forget([row.fingerprint for row in context.ledger.find()])
    die(9)
    with pytest.raises(KilledError):
        transfer.stages(context, plan, work_here)
    made = die()
    transfer.stages(context, plan, work_here)
    (again,) = by_kind(context, "search")
    assert made[0] == steps - 8
    assert without_times(again) == without_times(whole)


def without_times(outcome):
    return {name: value for name, value in outcome.extra["search"].items() if name != "seconds"}


def test_auto_is_the_best_of_all_methods(begin):
    context, plan = begin(**{**PLAN, "search": None, "methods": ["auto"], "targets": ["film"]})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    searches = {found.spec.method: found for found in by_kind(context, "search")}
    assert set(searches) == {"dept", "probe", "tfidf"}
    answers = {one.adapter.answers for one in searches["dept"].spec.search.candidates}
    assert answers == {"words", "head", "both"}
    (auto,) = [o for o in done.outcomes if o.spec.variant == "auto"]
    best = min(searches.values(), key=lambda found: found.validation["loss"])
    assert auto.spec.refit
    assert auto.spec.searched == best.spec.fingerprint
    assert auto.spec.method == best.spec.method
    assert auto.validation == best.validation
    lines = told_searches(plan, done.searches, done.searched)
    assert lines[-1]["for"] == "auto"
    assert lines[-1]["why"].startswith(f"lowest loss of {best.spec.method}")
    assert sum(line["steps"] for line in lines) == searches["dept"].steps_done


def test_several_that_are_better_together_are_trained_tested_and_kept_as_one(begin, monkeypatch):
    monkeypatch.setattr("dept.engine.together.plainest", lambda losses: 0)
    monkeypatch.setattr("flows.planning.searches.LINEAR", ())
    context, plan = begin(**{**PLAN, "search": {**SEARCH, "together": 3}, "methods": ["auto"]})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    (auto,) = [o for o in done.outcomes if o.spec.variant == "auto"]
    (found,) = by_kind(context, "search")
    told = found.extra["search"]
    assert auto.spec.kind == "ensemble"
    assert auto.validation == found.validation
    assert auto.validation["loss"] == told["together"][2]
    assert auto.test
    kept = Ensemble.load(context.store.fetch(auto.adapter_key))
    assert [one.readout or Readout() for one in kept.members] == [
        Readout.of(told["readouts"][str(number)]) for number in told["members"]
    ]
    assert [o.spec.role for o in done.members] == ["search"] * 3
    assert not any(o.test for o in done.members)
    assert told_searches(plan, done.searches, done.searched)[0]["chose"].startswith("3 together (")
    context, plan = begin(**{**PLAN, "search": {**SEARCH, "together": 3}, "methods": ["auto"]})
    again = transfer.stages(context, plan, work_here)
    assert (again.trained, len(again.reused)) == (set(), len(done.trained))


@pytest.mark.parametrize(("method", "start"), [("in-context", "shots"), ("calibrated", "text")])
def test_what_makes_no_steps_is_read_by_rows_held_out_and_has_all_of_them(begin, method, start):
    context, plan = begin(**{**PLAN, "methods": [method], "sources": [], "strategies": ["scratch"]})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    (found,) = by_kind(context, "search")
    (target,) = [o for o in done.outcomes if o.spec.method == method]
    told, kept = found.extra["search"], context.store.fetch(target.adapter_key)
    assert (target.spec.start, target.steps_done, told["steps"]) == (start, 0, 0)
    assert target.spec.readout == Readout.of(told["readouts"]["0"])
    assert target.validation == found.validation
    drawn = json.loads((kept / "adapter.json").read_text())["metadata"]["drawn"]
    assert (len(drawn["shots"]), drawn["validation"]) == (8, [])
    words, folds = [], folds_of(context, found.spec)
    for shots, held in folds:
        begun = start_of(context, target.spec, shots)
        rows = rows_of(context, held, target.spec.adapter, continues=start == "shots")
        words += context.backbone.score([begun], [(0, row) for row in rows])
    wanted = summarise(words, rows_of(context, [one for _, held in folds for one in held], target.spec.adapter))
    (tried,) = told["tried"]
    assert tried["validation"] == pytest.approx({name: wanted[name] for name in ("loss", "score")}, abs=1e-4)
    whole = start_of(context, target.spec, [*folds[0][1], *folds[0][0]])
    assert torch.equal(Adapter.load(kept).prompt, whole.prompt)


def test_linear_baselines_are_searched_and_fitted_on_all_rows(begin):
    context, plan = begin(**{**PLAN, "methods": ["probe", "tfidf"], "sources": [], "strategies": ["scratch"]})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    targets = {o.spec.method: o for o in done.outcomes if o.spec.method in ("probe", "tfidf")}
    for found in by_kind(context, "search"):
        target = targets[found.spec.method]
        told = found.extra["search"]
        assert found.validation["loss"] == min(one["validation"]["loss"] for one in told["tried"])
        assert told["option"].endswith(("C 0.01", "C 0.1", "C 1", "C 10", "C 100"))
        assert target.validation == found.validation
        assert target.test
        assert "refit" not in target.extra
    assert len(targets) == 2


def test_linear_baselines_learn_from_all_rows_where_a_plan_says_so(begin):
    more = {"search": None, "methods": ["tfidf"], "sources": [], "strategies": ["scratch"], "shots": ["all"]}
    context, plan = begin(**{**PLAN, **more})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    assert [o.spec.method for o in done.outcomes if o.spec.init != "untrained"] == ["tfidf"]
    searched, plan = begin(**{**PLAN, **more, "search": SEARCH})
    assert not transfer.stages(searched, plan, work_here).failed


@pytest.mark.parametrize("method", ["lora", "full"])
def test_baselines_are_searched_on_the_same_rows(begin, method):
    pytest.importorskip("peft")
    context, plan = begin(**{**PLAN, "methods": [method], "sources": [], "strategies": ["scratch"]})
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    (found,) = by_kind(context, "search")
    told = found.extra["search"]
    assert sorted(one["left"] for one in told["tried"]) == ["all steps", "rung 2", "rung 2", "rung 4"]
    (target,) = [o for o in done.outcomes if o.spec.method == method]
    assert target.steps_done == found.best_step
    assert target.validation == found.validation
    assert found.validation["loss"] == pytest.approx(
        found.extra["readout"]["loss"]
    )  # calibrated, as those of adapters are
    assert target.spec.readout == Readout.of(told["readouts"][str(told["winner"])])
    assert target.extra["readout"]["temperature"] == target.spec.readout.temperature


def test_a_searched_baseline_answers_by_the_readout_of_its_search(begin, monkeypatch):
    pytest.importorskip("peft")
    second = Readout(calibration="batch", bias=(99.0, -99.0))  # whatever the words say
    decided = Decided((0,), (second,), {}, 1.0, 50.0, (1.0,))
    monkeypatch.setattr("flows.execution.searching.decide", lambda *_: decided)
    search = {**SEARCH, "candidates": 1}
    context, plan = begin(**{**PLAN, "search": search, "methods": ["lora"], "sources": [], "strategies": ["scratch"]})
    done = transfer.stages(context, plan, work_here)
    (target,) = [o for o in done.outcomes if o.spec.method == "lora"]
    tested = asked_of(context, target.spec)
    assert target.test["accuracy"] == pytest.approx(100 * sum(row.label for row in tested) / len(tested))
    assert target.extra["readout"] == {"calibration": "batch", "temperature": 1.0}
    kept = json.loads((context.store.fetch(target.adapter_key) / "baseline.json").read_text())
    assert Readout.of(kept["metadata"]["readout"]) == second


def test_a_store_that_is_away_fails_no_search(begin, monkeypatch):
    """What a search starts from is there; that the store does not answer is said, and the search stays to be done."""
    context, plan = begin(**PLAN)

    def away(*_):
        raise InputError("store: does not answer")

    monkeypatch.setattr("flows.execution.searching.find_adapter", away)
    with pytest.raises(InputError, match="does not answer"):
        transfer.stages(context, plan, work_here)
    assert not context.ledger.find(kind="search", status="failed")


def test_trials_where_a_label_may_have_no_row_are_told_apart(make_plan):
    """What heads and linear baselines say of such labels has changed; all other trials stay what they were."""
    plan = load_plan(make_plan(seeds=[0], shots=[1, 4], methods=["auto"], search=None, targets=["film"]))
    inputs = Inputs(plan.resolve_tasks(), check(plan), "backbone", 32, "float32")
    origins = {place: Origin("food", f"{place[0].target}-{place[1]}") for place in to_start(plan)}
    found = searches(plan, inputs, origins)
    reads = {(place[0].shots, place[1]): spec.unseen for place, spec in found.items()}
    assert reads[1, "dept"] == reads[1, "probe"] == reads[1, "tfidf"] == "mean row"
    assert reads[4, "dept"] is reads[4, "probe"] is reads[4, "tfidf"] is None
    searched = next(spec for place, spec in found.items() if place[:2] == (Draw("film", 1, 0), "dept"))
    assert searched.of(0).unseen == "mean row"
    assert searched.model_copy(update={"unseen": None}).fingerprint != searched.fingerprint
