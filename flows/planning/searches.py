"""The search of each draw's recipe: which searches a plan needs, and the trials that follow from what they found. Pure.

One search for each draw and method (dept: and strategy), on the draw's shots and validation rows alone: no test row
plays a part. `auto` has a search of its own over all starts and answers of dept; it comes to the best of all methods.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from dept.config import Answers, TrainConfig
from dept.readout import Readout
from dept.trial import AUTO, LINEAR, Candidate, Init, Method, Search, Start, TrialOutcome, TrialSpec, goodness
from flows.planning.candidates import Way, candidates
from flows.planning.places import Draw, Origins, Place, draws, places, rate_key, shown_beside, tells_classes
from flows.planning.plan import Plan
from flows.planning.search_plan import SearchPlan
from flows.planning.trials import Inputs, common, drawn, training_of, unseen

OF_AUTO = SearchPlan(candidates=16)  # where the plan says nothing of a search
ALL_ANSWERS: tuple[Answers, ...] = ("both", "words", "head")  # both first: a weight may make it one of the others
Outcomes = Mapping[str, TrialOutcome]  # of searches, by fingerprint; failed ones are not there
Searches = Mapping[Place, TrialSpec]


def searches(
    plan: Plan, inputs: Inputs, origins: Origins, missing: Container[tuple[Draw, str]] = ()
) -> dict[Place, TrialSpec]:
    """The searches that a plan needs, by what they are for; of `auto` the one over all of dept has the strategy auto.

    Args:
        origins: for each draw and each strategy but scratch, the adapter that it starts from.
        missing: draws and strategies that have no start; they are left out.
    """
    found: dict[Place, TrialSpec] = {}
    for draw, method, strategy in _wanted(plan, inputs):
        if rate_key(method, strategy) is None and strategy != AUTO:
            found[draw, method, strategy] = _stepless(plan, inputs, (draw, method, strategy))
            continue
        strategies = starts_of_auto(plan) if strategy == AUTO else [strategy]
        ways = [_way(plan, draw, method, one, origins) for one in strategies if (draw, one) not in missing]
        if ways:
            found[draw, method, strategy] = _search(plan, inputs, (draw, method, strategy), ways)
    return found


def searched_targets(plan: Plan, inputs: Inputs, found: Searches, outcomes: Outcomes) -> list[TrialSpec]:
    """The trials of what searches found, and for each draw of `auto` that of the best of all.

    Where the best is several together, its adapters are trained, but neither tested nor compared by themselves; see
    `flows.planning.joined`. What logistic regression makes of the same shots costs seconds: it is shown beside `auto`
    in any case.
    """
    asked_for = {*places(plan), *(place for place in found if place[1] in LINEAR)}
    made = [
        target_of(plan, inputs, spec, outcomes[spec.fingerprint])
        for place, spec in found.items()
        if spec.fingerprint in outcomes and place in asked_for
    ]
    for best in best_of_all(plan, found, outcomes).values():
        spec, outcome = found[best], outcomes[found[best].fingerprint]
        if several(outcome):
            made += member_trials(plan, inputs, spec, outcome)
        else:
            made.append(target_of(plan, inputs, spec, outcome).model_copy(update={"init": AUTO}))
    return made


def as_searched(outcomes: Iterable[TrialOutcome], searched: Outcomes) -> list[TrialOutcome]:
    """Nothing validates a refit: what the present search found over its folds stands for it, even where the same recipe
    was trained for an earlier search.
    """
    found = []
    for one in outcomes:
        search = searched.get(one.spec.searched or "") if one.spec.refit else None
        found.append(one if search is None else replace(one, validation=search.validation))
    return found


def member_trials(plan: Plan, inputs: Inputs, spec: TrialSpec, outcome: TrialOutcome) -> list[TrialSpec]:
    """The trials of adapters that answer together, trained and not tested by themselves; the best first."""
    members = [target_of(plan, inputs, spec, outcome, number) for number in members_of(outcome)]
    return [one.model_copy(update={"role": "search", "test_rows": 0}) for one in members]


def several(outcome: TrialOutcome) -> bool:
    """Whether what a search came to is several together: candidates, or one of them with linear baselines beside it."""
    return len(members_of(outcome)) + len(outcome.extra["search"].get("beside", ())) > 1


def members_of(outcome: TrialOutcome) -> list[int]:
    """The candidates of a search that answer, by their numbers, the best first."""
    told = outcome.extra["search"]
    return [int(number) for number in told.get("members", [told["winner"]])]


def best_of_all(plan: Plan, found: Searches, outcomes: Outcomes) -> dict[Draw, Place]:
    """What `auto` chose for each draw: the lowest mean loss over the folds, of equals the first of `competing`."""
    chosen: dict[Draw, Place] = {}
    for draw in draws(plan) if AUTO in plan.methods else ():
        if places_there := ranked(draw, found, outcomes):
            chosen[draw] = places_there[0]
    return chosen


def ranked(draw: Draw, found: Searches, outcomes: Outcomes) -> list[Place]:
    """What `auto` chooses among, the best first."""
    there = [place for place in competing(draw, found) if found[place].fingerprint in outcomes]
    return sorted(there, key=lambda place: goodness(outcomes[found[place].fingerprint].validation), reverse=True)


def competing(draw: Draw, found: Searches) -> list[Place]:
    """The searches of a draw among which `auto` chooses: dept with all its starts first, then the other methods."""
    mine = [place for place in found if place[0] == draw]
    return [place for place in mine if place[2] == AUTO] + [place for place in mine if place[1] != "dept"]


def target_of(
    plan: Plan, inputs: Inputs, spec: TrialSpec, outcome: TrialOutcome, number: int | None = None
) -> TrialSpec:
    """The trial of what a search found: its start, answers and rates, and, on all the rows, as many steps.

    A linear baseline chooses what it reads, and C, again on all its rows.

    Args:
        number: of the candidate; default the winner.
    """
    told = outcome.extra["search"]
    split = spec.shots is not None and bool(spec.validation_rows)  # a whole validation split: it stays apart
    refit, number = asked(plan).refit and not split, int(told["winner"]) if number is None else number
    assert spec.search is not None
    training, readout = spec.search.candidates[number].training, None
    if refit:
        steps = outcome.best_step if number == told["winner"] else told["tried"][number]["best_step"]
        training = training.model_copy(update={"last": steps})
        readout = told.get("readouts", {}).get(str(number))  # a trial without validation rows could choose none
    changes: dict[str, Any] = {"role": "target", "refit": refit, "searched": spec.fingerprint, "training": training}
    changes |= {"readout": None if readout is None else Readout.of(readout)}
    reads = spec.method in LINEAR or bool(spec.search.candidates[number].adapter.reads)
    changes |= {} if reads else {"unseen": None}
    return spec.of(number, test_rows=tested_rows(plan, inputs, spec.task), **changes)


def tested_rows(plan: Plan, inputs: Inputs, task: str) -> int:
    """Rows that a target of the plan is tested on."""
    found: int = common(plan, inputs, task)["test_rows"]
    return found


def asked(plan: Plan) -> SearchPlan:
    """How recipes are searched: the plan's block, or what `auto` takes without one."""
    return plan.search or OF_AUTO


def _wanted(plan: Plan, inputs: Inputs) -> list[Place]:
    own, beside = places(plan), shown_beside(plan, inputs.tasks)
    if AUTO not in plan.methods:
        return [*own, *beside] if plan.search is not None else []
    others = [place for place in own if place[1] != "dept"]  # `auto` chooses among them too
    found = list(own if plan.search is not None else others)
    for draw in draws(plan):
        linear = LINEAR if tells_classes(inputs.tasks[draw.target]) else ()
        found += [(draw, "dept", AUTO), *((draw, method, "scratch") for method in linear)]
    return list(dict.fromkeys((*found, *beside)))


def starts_of_auto(plan: Plan) -> list[str]:
    """What auto starts from. Weights of a mixture are learned on the shots, which validate a fold."""
    return [one for one in plan.strategies if one != "mixture" or asked(plan).folds == 1] or list(plan.strategies)


def _way(plan: Plan, draw: Draw, method: Method, strategy: str, origins: Origins) -> Way:
    key = rate_key(method, strategy)
    assert key is not None
    training = training_of(plan, key, draw.target, {})
    if strategy == "scratch":
        return Way("scratch", "text", None, None, key, training)
    origin = origins[draw, strategy]
    init: Init = strategy.partition(":")[0]  # type: ignore[assignment]
    start: Start = "prompt" if strategy == "prompt-only" else "source"
    return Way(init, start, origin.task, origin.sha256, key, training)


def _search(plan: Plan, inputs: Inputs, place: Place, ways: list[Way]) -> TrialSpec:
    draw, method, strategy = place
    how, task = asked(plan), inputs.tasks[draw.target]
    shape = inputs.shape(plan.recipe(draw.target).adapter, method, draw.target)
    answers = how.answers or (ALL_ANSWERS if strategy == AUTO else ())
    if not inputs.tells_words:
        answers = ("head",)
    tried: tuple[Candidate, ...] = candidates(
        how if method == "dept" else how.model_copy(update={"shapes": False}),
        list({(way.start, way.source_sha256): way for way in ways}.values()),
        shape,
        inputs.d,
        answers if not inputs.tells_words or (tells_classes(task) and method == "dept") else ("words",),
        how.objectives if task.scored else ("vocabulary",),
    )
    if (
        strategy == AUTO and task.scored and inputs.tells_words
    ):  # what needs no training at all: the prompt's text, calibrated
        untrained = TrainConfig(steps=0, eval_every=how.eval_every)
        tried = (*tried, Candidate(adapter=shape.headless.blind, training=untrained))
    init: Init = strategy.partition(":")[0]  # type: ignore[assignment]
    fields = common(plan, inputs, draw.target) | drawn(plan, inputs, draw) | {"test_rows": 0}
    folds = _folds(plan, fields, {way.init for way in ways})
    together = how.together if strategy == AUTO and tells_classes(task) else 1
    beside = LINEAR if together > 1 else ()
    return TrialSpec(
        kind="search",
        role="search",
        method=method,
        init=init,
        source_task=ways[0].source_task if strategy != AUTO else None,
        training=TrainConfig(steps=how.steps),
        adapter=inputs.bare(shape, [draw.target]),
        unseen=unseen(plan, inputs, draw, bool(beside) or any(one.adapter.reads for one in tried)),
        search=Search(
            candidates=tried,
            folds=folds,
            rungs=tuple(how.rungs),
            eta=how.eta,
            minutes=how.minutes,
            together=together,
            beside=beside,
        ),
        **fields,
    )


def _folds(plan: Plan, fields: Mapping[str, Any], starts: Collection[str]) -> int:
    """Folds of a search: one where a whole split validates, or where the shots have weighed a mixture.

    Args:
        starts: of all that the search is compared with.
    """
    return 1 if fields["validation_rows"] or "mixture" in starts else asked(plan).folds


def _stepless(plan: Plan, inputs: Inputs, place: Place) -> TrialSpec:
    """What makes no steps, on the same folds: a linear baseline by its own grid of what it reads, and C (constants of
    the method); in-context and calibrated for the readout, and the loss, on rows held out.
    """
    draw, method, _ = place
    shape = inputs.shape(plan.recipe(draw.target).adapter, method, draw.target)
    fields = common(plan, inputs, draw.target) | drawn(plan, inputs, draw) | {"test_rows": 0}
    start: Start = "text" if method == "calibrated" else "shots"
    only = Candidate(start=start, adapter=shape, training=TrainConfig(steps=0))
    folds = _folds(plan, fields, starts_of_auto(plan) if AUTO in plan.methods else ())
    return TrialSpec(
        kind="search",
        role="search",
        method=method,
        init="scratch",
        start=start,
        training=TrainConfig(steps=0),
        adapter=shape,
        unseen=unseen(plan, inputs, draw, method in LINEAR),
        search=Search(candidates=(only,), folds=folds, rungs=()),
        **fields,
    )
