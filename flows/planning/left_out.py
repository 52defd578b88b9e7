"""Which targets of a plan cannot be trained, and why. Pure."""

from __future__ import annotations

from typing import Any

from dept.trial import AUTO
from flows.planning.places import Place, draws, places, rate_key
from flows.planning.plan import Plan
from flows.planning.searches import starts_of_auto
from flows.planning.strategies import Starts


def left_out(plan: Plan, starts: Starts, without: dict[tuple[Any, str], str]) -> dict[Place, str]:
    """Target trials that cannot be run, and why: they have no start, or no rates."""
    missing: dict[Place, str] = {}
    for place in places(plan):
        draw, method, strategy = place
        key = rate_key(method, strategy)
        reason = starts.missing.get((draw, strategy)) if method == "dept" else None
        reason = reason or without.get((key, draw.target)) or without.get((key, ""))
        if reason:
            missing[place] = reason
    for draw in draws(plan) if AUTO in plan.methods else ():
        reasons = [starts.missing.get((draw, strategy)) for strategy in starts_of_auto(plan)]
        if all(reasons):  # what auto comes to then is a baseline, which would look like its choice
            missing[draw, "dept", AUTO] = f"dept was not searched: {reasons[0]}"
    return missing


def label(place: Place) -> str:
    """Short name of a target trial that has no spec, since what it would start from is missing."""
    draw, method, strategy = place
    shots = "all" if draw.shots is None else f"k{draw.shots}"
    return f"{draw.target}/{shots}/s{draw.seed}/{strategy if method == 'dept' else method}"
