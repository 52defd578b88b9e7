"""Which searches a plan asks for, what they try, and the trials of what they found."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dept.config import AdapterConfig, TrainConfig
from dept.readout import Readout
from dept.trial import LINEAR, Candidate, Search, TrialOutcome
from flows.execution.open import check_heads
from flows.planning.candidates import RANGES, shapes
from flows.planning.check import check
from flows.planning.joined import joined_targets
from flows.planning.leakage import guarded
from flows.planning.left_out import label, left_out
from flows.planning.places import Draw, Origin, places, to_start
from flows.planning.plan_file import load_plan
from flows.planning.searches import as_searched, best_of_all, searched_targets, searches
from flows.planning.strategies import Starts
from flows.planning.trials import Inputs
from flows.reporting.html import write_report
from flows.reporting.searched import told_searches
from infra.errors import InputError
from tasks.draws import few_shot
from tasks.load import load_splits
from tests.flows.report_helpers import no_plots  # noqa: F401
from tests.flows.test_report import Page

SEARCH = {"candidates": 8, "steps": 8, "eval_every": 2, "rungs": [2, 4]}


@pytest.fixture
def planned(make_plan):
    def planned(**changes):
        plan = load_plan(make_plan(**{"seeds": [0], "search": SEARCH, **changes}))
        inputs = Inputs(plan.resolve_tasks(), check(plan), "backbone", 32, "float32")
        origins = {place: Origin("food", f"{place[0].target}-{place[1]}") for place in to_start(plan)}
        return plan, inputs, searches(plan, inputs, origins)

    return planned


def outcome_of(spec, winner=0, step=4, loss=0.5):
    told = {"winner": winner}
    return TrialOutcome(spec, "", "", step, 10, {"loss": loss, "score": 50.0}, extra={"search": told})


def test_one_search_for_each_draw_and_method(planned):
    plan, _, found = planned(methods=["dept", "prompt-tuning", "in-context"])
    assert list(found) == places(plan)
    spec = found[Draw("film", 4, 0), "dept", "best-source"]
    assert (spec.kind, spec.role, spec.test_rows, spec.shots) == ("search", "search", 0, 4)
    assert {one.source_sha256 for one in spec.search.candidates} == {"film-best-source"} == set(spec.needed)
    assert spec.label == "search:film/k4/s0/best-source:food"


def test_what_is_tried(planned):
    """The plan's own recipe first, then rates within their ranges; as many for each draw, and the same."""
    plan, _, found = planned()
    one, other = (found[Draw(name, 4, 0), "dept", "scratch"].search for name in plan.targets)
    assert one == other
    assert len(set(one.candidates)) == 8
    first = one.candidates[0].training
    assert (first.lr_prompt, first.steps, first.eval_every) == (0.05, 8, 2)
    for candidate in one.candidates[1:]:
        low, high = RANGES["dept"]
        assert low <= candidate.training.lr_prompt <= high
        assert RANGES["low-rank"][0] <= candidate.training.lr_low_rank <= RANGES["low-rank"][1]
    narrow = planned(search={**SEARCH, "ranges": {"dept": [0.02, 0.02]}})[2]
    tried = narrow[Draw("film", 4, 0), "dept", "scratch"].search.candidates
    assert {candidate.training.lr_prompt for candidate in tried[1:]} == {0.02}


def test_all_that_is_tried_is_in_the_fingerprint(planned):
    spec = planned()[2][Draw("film", 4, 0), "dept", "best-source"]
    first, *others = spec.search.candidates
    named = first.model_copy(update={"source_task": "service", "init": "similar"})  # another way to the same start
    assert _with(spec, [named, *others]).fingerprint == spec.fingerprint
    for changed in (first.model_copy(update={"source_sha256": "x"}), first.model_copy(update={"start": "prompt"})):
        assert _with(spec, [changed, *others]).fingerprint != spec.fingerprint
    for changes in ({"folds": 1}, {"rungs": (2,)}, {"eta": 2}, {"minutes": 1.0}):
        assert (
            spec.model_copy(update={"search": spec.search.model_copy(update=changes)}).fingerprint != spec.fingerprint
        )


def _with(spec, candidates):
    return spec.model_copy(update={"search": spec.search.model_copy(update={"candidates": tuple(candidates)})})


def test_shapes_of_one_budget():
    """12 * 100 + (8 + 100) * 4 numbers: without the pair 16.3 tokens, with twice its rank 7.7."""
    shape = AdapterConfig(m=12, r=4, s=8)
    assert [(one.m, one.r) for one in shapes(shape, 100)] == [(12, 4), (16, 0), (14, 2), (8, 8)]


def test_the_trial_of_what_was_found(planned):
    plan, inputs, found = planned(strategies=["best-source"], targets=["film"])
    (spec,) = found.values()
    (target,) = searched_targets(plan, inputs, found, {spec.fingerprint: outcome_of(spec, winner=3, step=6)})
    best = spec.search.candidates[3]
    assert target.training == best.training.model_copy(update={"last": 6})
    assert (target.kind, target.role, target.refit, target.test_rows) == ("train", "target", True, 10)
    assert (target.source_sha256, target.init, target.search) == ("film-best-source", "best-source", None)
    assert target.searched == spec.fingerprint
    assert target.model_copy(update={"searched": None}).fingerprint == target.fingerprint
    assert target.model_copy(update={"refit": False}).fingerprint != target.fingerprint
    assert searched_targets(plan, inputs, found, {}) == []  # its search failed


def test_without_refit_the_shots_alone_train(planned):
    plan, inputs, found = planned(strategies=["scratch"], targets=["film"], search={**SEARCH, "refit": False})
    (spec,) = found.values()
    (target,) = searched_targets(plan, inputs, found, {spec.fingerprint: outcome_of(spec)})
    assert (target.refit, target.training.last) == (False, None)


def test_auto_searches_all_starts_at_once_and_takes_the_best_method(planned):
    plan, inputs, found = planned(methods=["auto", "prompt-tuning"], targets=["film"], search=None)
    draw = Draw("film", 4, 0)
    methods = [place[1] for place in found]
    assert methods == ["prompt-tuning", "dept", "probe", "tfidf"]
    own = found[draw, "dept", "auto"]
    assert len(own.search.candidates) == 17
    untrained = own.search.candidates[-1]  # of which calibration alone is chosen
    assert (untrained.start, untrained.training.steps, untrained.adapter.answers) == ("text", 0, "words")
    assert {(one.init, one.start) for one in own.search.candidates} == {("scratch", "text"), ("best-source", "source")}
    cases = (
        ((0.4, 0.3, 0.5, 0.5), "dept"),
        ((0.2, 0.3, 0.5, 0.5), "prompt-tuning"),
        ((0.3, 0.3, 0.3, 0.3), "dept"),
        ((0.5, 0.3, 0.2999, 0.5), "probe"),  # never knowingly worse
    )
    for losses, best in cases:
        outcomes = {
            spec.fingerprint: outcome_of(spec, winner=int(len(spec.search.candidates) > 1), loss=loss)
            for spec, loss in zip(found.values(), losses, strict=True)
        }
        assert best_of_all(plan, found, outcomes)[draw][1] == best
        tuned, probe, tfidf, auto = searched_targets(plan, inputs, found, outcomes)
        assert [one.variant for one in (tuned, probe, tfidf, auto)] == ["prompt-tuning", "probe", "tfidf", "auto"]
        assert auto.method == best
        assert not auto.transfers
        assert (auto.fingerprint == tuned.fingerprint) == (best == "prompt-tuning")


def test_several_candidates_of_auto_may_answer_as_one(planned):
    plan, inputs, found = planned(methods=["auto"], targets=["film"], search=None)
    own = found[Draw("film", 4, 0), "dept", "auto"]
    outcomes = {spec.fingerprint: outcome_of(spec, loss=0.9) for spec in found.values()}
    best = outcomes[own.fingerprint] = outcome_of(own, winner=2, step=8, loss=0.1)
    readouts = {"2": Readout(temperature=2.0).body, "5": Readout(0.25).body}
    best.extra["search"] |= {"members": [2, 5], "readouts": readouts, "tried": [{"best_step": n} for n in range(17)]}
    linear, members = _linear_first(searched_targets(plan, inputs, found, outcomes))
    assert linear == ["probe", "tfidf"]
    assert [(one.role, one.test_rows, one.training.last) for one in members] == [("search", 0, 8), ("search", 0, 5)]
    assert [one.readout for one in members] == [Readout(temperature=2.0), Readout(0.25)]
    trained = {one.fingerprint: f"sha{place}" for place, one in enumerate(members)}
    (joined,) = joined_targets(plan, inputs, found, outcomes, trained)
    assert (joined.kind, joined.role, joined.variant, joined.test_rows) == ("ensemble", "target", "auto", 10)
    assert joined.sources == ("sha0", "sha1")
    assert joined.searched == own.fingerprint
    assert joined.readout is None
    (alone,) = joined_targets(plan, inputs, found, outcomes, {members[1].fingerprint: "sha1"})  # the other has failed
    assert (alone.kind, alone.role, alone.variant, alone.test_rows) == ("train", "target", "auto", 10)
    assert (alone.readout, alone.training.last) == (Readout(0.25), 5)
    (other,) = joined_targets(plan, inputs, found, outcomes, {})  # both have: the next best answers
    assert (other.method, other.variant, other.test_rows) == ("probe", "auto", 10)
    old = TrialOutcome(joined, "", "", 0, 0, {"loss": 9.0})  # as an earlier search of the same recipe had found
    other = replace(old, spec=joined.model_copy(update={"refit": False}))
    assert [one.validation for one in as_searched([old, other], outcomes)] == [best.validation, old.validation]
    best.extra["search"]["members"] = [2]
    _, (single,) = _linear_first(searched_targets(plan, inputs, found, outcomes))
    assert joined_targets(plan, inputs, found, outcomes, {single.fingerprint: "sha"}) == []
    (other,) = joined_targets(plan, inputs, found, outcomes, trained)  # it has failed
    assert (other.method, other.variant) == ("probe", "auto")


def test_a_member_that_failed_leaves_the_others(planned):
    plan, inputs, found = planned(methods=["auto"], targets=["film"], search=None)
    own = found[Draw("film", 4, 0), "dept", "auto"]
    outcomes = {own.fingerprint: outcome_of(own, winner=2, step=8, loss=0.1)}
    outcomes[own.fingerprint].extra["search"] |= {"members": [2, 5, 7], "tried": [{"best_step": n} for n in range(17)]}
    trained = {one.fingerprint: str(place) for place, one in enumerate(searched_targets(plan, inputs, found, outcomes))}
    (joined,) = joined_targets(plan, inputs, found, outcomes, {key: sha for key, sha in trained.items() if sha != "0"})
    assert joined.sources == ("1", "2")


def test_shots_that_weigh_a_mixture_validate_nothing(planned):
    _, _, found = planned(strategies=["scratch", "mixture"], methods=["auto", "dept"], targets=["film"])
    folds = {strategy: spec.search.folds for (_, method, strategy), spec in found.items() if method == "dept"}
    assert folds == {"scratch": 2, "mixture": 1, "auto": 2}
    own = found[Draw("film", 4, 0), "dept", "auto"]
    assert {one.init for one in own.search.candidates} == {"scratch"}


def test_all_methods_of_auto_are_compared_on_the_same_rows(planned):
    _, _, found = planned(strategies=["mixture"], methods=["auto"], targets=["film"])
    assert {spec.search.folds for spec in found.values()} == {1}


def _linear_first(specs):
    return [one.method for one in specs if one.method in LINEAR], [one for one in specs if one.method not in LINEAR]


def test_each_way_to_start_is_tried_at_least_once(planned):
    changes = {"strategies": ["scratch", "best-source"], "search": {**SEARCH, "candidates": 1}}
    own = planned(methods=["auto"], targets=["film"], **changes)[2][Draw("film", 4, 0), "dept", "auto"]
    assert [one.init for one in own.search.candidates] == ["scratch", "best-source", "scratch"]


def test_each_start_meets_each_answer(planned):
    """Words and head together first, of which the weight may choose one alone."""
    changes = {"strategies": ["scratch", "best-source"], "search": {**SEARCH, "candidates": 6}}
    own = planned(methods=["auto"], targets=["film"], **changes)[2][Draw("film", 4, 0), "dept", "auto"]
    met = [(one.init, one.adapter.answers) for one in own.search.candidates[:-1]]
    starts = ("scratch", "best-source")
    assert met == [(start, answers) for answers in ("both", "words", "head") for start in starts]


def test_the_report_says_what_was_tried_chosen_and_why(planned, tmp_path, no_plots):  # noqa: F811
    plan, _, found = planned(methods=["auto"], targets=["film"], search=None)
    losses = {"dept": 0.5, "probe": 0.25, "tfidf": 0.75}
    outcomes = {}
    for place, spec in found.items():
        outcomes[spec.fingerprint] = one = outcome_of(spec, winner=0, loss=losses[place[1]])
        one.extra["search"] |= {"tried": [{}] * 3, "steps": 100, "tokens": 1000, "seconds": 2.0, "over": False}
    for spec in (spec for (_, method, _), spec in found.items() if method != "dept"):
        outcomes[spec.fingerprint].extra["search"]["option"] = "C 1"
    lines = told_searches(plan, found, outcomes)
    assert [line["for"] for line in lines] == ["dept, all starts", "probe", "tfidf", "auto"]
    assert lines[-1]["why"] == "lowest loss of probe 0.250, dept 0.500, tfidf 0.750"
    assert lines[-1]["chose"] == "probe, C 1 (its trial chooses again on all its rows)"
    assert lines[0]["chose"].startswith("scratch, answers ")
    page = Page(write_report(tmp_path, "x", {}, [], {"searches": lines}).read_text(encoding="utf-8")).text
    assert lines[-1]["why"] in page
    assert "9 candidates" in " ".join(page.split())
    assert "300 steps" in " ".join(page.split())


def test_a_source_that_failed_leaves_the_other_starts(make_plan):
    plan = load_plan(make_plan(seeds=[0], methods=["auto"], targets=["film"]))
    inputs = Inputs(plan.resolve_tasks(), check(plan), "backbone", 32, "float32")
    found = searches(plan, inputs, {}, {(Draw("film", 4, 0), "best-source")})
    spec = found[Draw("film", 4, 0), "dept", "auto"]
    assert {one.init for one in spec.search.candidates} == {"scratch"}


def test_auto_without_any_start_says_so(make_plan):
    """It comes to the probe then, which would look like its choice."""
    plan = load_plan(make_plan(seeds=[0], methods=["auto"], targets=["film"], strategies=["best-source"]))
    draw = Draw("film", 4, 0)
    found = left_out(plan, Starts({}, {(draw, "best-source"): "source food has failed"}), {})
    assert {label(place): reason for place, reason in found.items()} == {
        "film/k4/s0/auto": "dept was not searched: source food has failed"
    }
    plan = load_plan(make_plan(seeds=[0], methods=["auto"], targets=["film"], strategies=["scratch", "best-source"]))
    assert left_out(plan, Starts({}, {(draw, "best-source"): "source food has failed"}), {}) == {}


def test_shots_are_held_out_of_sources_where_they_validate(make_plan):
    plan = load_plan(make_plan(seeds=[0], search=SEARCH))
    splits = {name: load_splits(task) for name, task in plan.resolve_tasks().items()}
    shot = few_shot(splits["film"], 4, 0, 2)[0][0]
    splits["food"] = replace(splits["food"], train=(*splits["food"].train, shot))
    assert shot not in guarded(plan, splits)["food"].train
    assert shot in guarded(plan.model_copy(update={"search": None}), splits)["food"].train


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search": {"rungs": [3], "eval_every": 2}}, "rungs"),
        ({"search": {"rungs": [4, 4]}}, "rise"),
        ({"search": {"ranges": {"dept": [1.0, 0.1]}}}, "lowest"),
        ({"search": SEARCH, "rates": {"dept": [0.1]}}, "search"),
        ({"search": {"candidate": 3}}, "candidate"),
    ],
)
def test_bad_searches_are_told(make_plan, changes, said):
    with pytest.raises(InputError, match=said):
        load_plan(make_plan(**changes))


def test_steps_of_a_search_written_out():
    """Nine to step 2, of them three to 4, of them one to 8: 18 + 6 + 4; always from the start 18 + 12 + 8."""
    one = Candidate(adapter=AdapterConfig(), training=TrainConfig(steps=8, eval_every=2))
    search = Search(candidates=(one,) * 9, rungs=(2, 4), eta=3)
    assert (search.steps(), search.steps(anew=True)) == (28, 38)


@pytest.mark.parametrize("method", ["dept", "adept"])
@pytest.mark.parametrize(("scored", "grid", "said"), [(False, (), "generation"), (True, (1.0,), "a number")])
def test_a_head_over_what_is_no_class_is_refused(method, scored, grid, said):
    plan = SimpleNamespace(
        targets=["task"], methods=[method], recipe=lambda _: SimpleNamespace(adapter=AdapterConfig(answers="both"))
    )
    with pytest.raises(InputError, match=said):
        check_heads(plan, {"task": SimpleNamespace(scored=scored, grid=grid)})
