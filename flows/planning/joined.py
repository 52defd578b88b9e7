"""The trials in which several answer as one, where that is what `auto` chose for a draw. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dept.trial import AUTO, TrialSpec
from flows.planning.ensembles import together
from flows.planning.places import Draw
from flows.planning.plan import Plan
from flows.planning.searches import (
    Outcomes,
    Searches,
    best_of_all,
    member_trials,
    members_of,
    ranked,
    several,
    target_of,
    tested_rows,
)
from flows.planning.trials import Inputs


def joined_targets(
    plan: Plan,
    inputs: Inputs,
    found: Searches,
    outcomes: Outcomes,
    trained: Mapping[str, str],
    instead: Mapping[str, TrialSpec] | None = None,
) -> list[TrialSpec]:
    """For each draw of which `auto` chose several together the trial in which they answer as one.

    Where one of them alone is left, it answers by itself; where no adapter is, or the trial of a single choice has
    failed, there is a trial of the next best of what was searched.

    Args:
        trained: sha256 of what was trained by the fingerprints of the trials; of one that has failed there is none.
        instead: specs of what took the place of a trial that went astray, by its fingerprint.
    """
    made, instead = [], instead or {}
    for draw, best in best_of_all(plan, found, outcomes).items():
        spec, outcome = found[best], outcomes[found[best].fingerprint]
        if not several(outcome):
            alone = target_of(plan, inputs, spec, outcome).model_copy(update={"init": AUTO})
            made += [] if alone.fingerprint in trained else _next_best(plan, inputs, draw, found, outcomes, instead)
            continue
        members = member_trials(plan, inputs, spec, outcome)
        there = [place for place, one in enumerate(members) if one.fingerprint in trained]
        voices = [voice for voice in _voices(plan, inputs, draw, found, outcomes) if voice[0].fingerprint in trained]
        if len(voices) > 1 and there:
            about = {"method": "dept", "init": AUTO, "searched": spec.fingerprint}
            tested = {"role": "target", "test_rows": tested_rows(plan, inputs, spec.task)}
            weights = tuple(weight for _, weight in voices)
            weights = weights if len(set(weights)) > 1 else ()
            shas = [trained[one.fingerprint] for one, _ in voices]
            made.append(together([one for one, _ in voices], shas, weights=weights, **about, **tested))
        elif there:
            number, place = members_of(outcome)[there[0]], members[there[0]].fingerprint
            alone = target_of(plan, inputs, spec, outcome, number)
            made.append(_steady(alone, place, instead).model_copy(update={"init": AUTO}))
        else:
            made += _next_best(plan, inputs, draw, found, outcomes, instead)
    return made


def _voices(
    plan: Plan, inputs: Inputs, draw: Draw, found: Searches, outcomes: Outcomes
) -> list[tuple[TrialSpec, float]]:
    """The trials of all that answer together for `auto`, each with its weight: adapters, then linear baselines.

    A linear baseline whose own search has failed is left out.
    """
    spec = found[draw, "dept", AUTO]
    told = outcomes[spec.fingerprint].extra["search"]
    trials: list[TrialSpec | None] = [*member_trials(plan, inputs, spec, outcomes[spec.fingerprint])]
    for method in told.get("beside", ()):
        own = found[draw, method, "scratch"]
        there = own.fingerprint in outcomes
        trials.append(target_of(plan, inputs, own, outcomes[own.fingerprint]) if there else None)
    weights = told.get("weights") or [1.0] * len(trials)
    return [(one, weight) for one, weight in zip(trials, weights, strict=True) if one is not None]


def _next_best(
    plan: Plan, inputs: Inputs, draw: Draw, found: Searches, outcomes: Outcomes, instead: Mapping[str, TrialSpec]
) -> list[TrialSpec]:
    """The trial of the second of all that `auto` chooses among; none where there is no second."""
    second = ranked(draw, found, outcomes)[1:2]
    made = [target_of(plan, inputs, found[place], outcomes[found[place].fingerprint]) for place in second]
    return [_steady(one, one.fingerprint, instead).model_copy(update={"init": AUTO}) for one in made]


def _steady(spec: TrialSpec, fingerprint: str, instead: Mapping[str, TrialSpec]) -> TrialSpec:
    """A trial at the rates of what took the place of this one."""
    return spec.model_copy(update={"training": instead[fingerprint].training}) if fingerprint in instead else spec
