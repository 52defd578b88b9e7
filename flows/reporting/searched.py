"""What searches of recipes tried, chose and cost, as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from flows.planning.places import Place
from flows.planning.plan import Plan
from flows.planning.searches import best_of_all, competing


def told_searches(
    plan: Plan,
    found: Mapping[Place, TrialSpec],
    outcomes: Mapping[str, TrialOutcome],
    astray: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Each search with what it chose, its loss and its cost; of `auto` also the losses of the best of each kind.

    Args:
        outcomes: by fingerprint; of a search that failed there is none.
        astray: what became of refits of searches, by their fingerprints.
    """
    done = {place: outcomes[spec.fingerprint] for place, spec in found.items() if spec.fingerprint in outcomes}
    lines = []
    for place, outcome in done.items():
        line = _line(place, outcome)
        notes = filter(None, (line["why"], (astray or {}).get(found[place].fingerprint)))
        lines.append({**line, "why": "; ".join(notes)})
    for draw, best in best_of_all(plan, found, outcomes).items():
        there = [place for place in competing(draw, found) if place in done]
        losses = {_kind(place, done[place]): done[place].validation["loss"] for place in there}
        line = _line(best, done[best])
        told = ", ".join(f"{kind} {loss:.3f}" for kind, loss in sorted(losses.items(), key=lambda pair: pair[1]))
        free = {"candidates": 0, "steps": 0, "tokens": 0, "seconds": 0.0}  # the searches above have cost it
        lines.append({**line, **free, "for": "auto", "why": f"lowest loss of {told}"})
    return lines


def _kind(place: Place, outcome: TrialOutcome) -> str:
    """What competes: a method, and what answers beside it."""
    beside = outcome.extra["search"].get("beside")
    return f"{place[1]} with {' and '.join(beside)}" if beside else place[1]


def _line(place: Place, outcome: TrialOutcome) -> dict[str, Any]:
    draw, method, strategy = place
    told = outcome.extra["search"]
    return {
        "target": draw.target,
        "k": "all" if draw.shots is None else draw.shots,
        "seed": draw.seed,
        "for": "dept, all starts" if strategy == "auto" else strategy if method == "dept" else method,
        "chose": chosen(outcome),
        "best_step": outcome.best_step,
        "loss": outcome.validation["loss"],
        "score": outcome.validation["score"],
        "candidates": len(told["tried"]),
        "steps": told["steps"],
        "tokens": told["tokens"],
        "seconds": told["seconds"],
        "why": "the time was over" if told["over"] else "",
    }


def chosen(outcome: TrialOutcome) -> str:
    """What a search came to in words: start, answers, shape where several were tried, and rates; of several that
    answer together those of the first, and each one's start and answers.
    """
    spec, told = outcome.spec, outcome.extra["search"]
    assert spec.search is not None
    first = _recipe(outcome)
    members = [spec.search.candidates[number] for number in told.get("members", [])]
    each = [f"{one.init} by {one.adapter.answers}" for one in members] + list(told.get("beside", []))
    if len(each) < 2:
        return first
    return f"{len(each)} together ({', '.join(each)}); the first: {first}"


def _recipe(outcome: TrialOutcome) -> str:
    spec = outcome.spec
    assert spec.search is not None
    if option := outcome.extra["search"].get("option"):
        return f"{spec.method}, {option} (its trial chooses again on all its rows)"
    best = spec.search.candidates[int(outcome.extra["search"]["winner"])]
    rates, shape = best.training, best.adapter
    if not best.training.steps:
        return "the prompt's text, not trained" if best.start == "text" else f"{spec.method}, not trained"
    parts: list[str] = [spec.method if spec.method != "dept" else best.init]
    parts += [f"from {best.source_task}"] if best.source_task else []
    if spec.method == "dept":
        parts.append(f"answers {shape.answers}")
        if len({(one.adapter.m, one.adapter.r) for one in spec.search.candidates}) > 1:
            parts.append(f"m {shape.m}, r {shape.r}")
    parts.append(f"rate {rates.lr_prompt:g}")
    if spec.method == "dept":
        parts.append(f"A and B {rates.lr_low_rank:g}")
        parts += [f"head {rates.lr_head:g}"] if shape.reads else []
        parts += [f"map of pictures {rates.lr_pictures:g}"] if shape.pictures else []
    return ", ".join(parts)
