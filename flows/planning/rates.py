"""Learning rates, chosen per method by the same small search on validation rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from dept.trial import TrialOutcome, TrialSpec, goodness
from flows.planning.defaults import RateKey
from flows.planning.places import Rate


def best_rates(
    tried: Mapping[tuple[RateKey, Rate], Sequence[TrialSpec]],
    outcomes: Mapping[str, TrialOutcome],
    per_target: bool = False,
) -> tuple[dict[tuple[RateKey, str], Rate], dict[tuple[RateKey, str], str]]:
    """Per method the rates with the lowest mean validation loss over all targets, of equals the better mean score.

    Loss, as the authors choose: on the few rows of a draw, the share of right answers hardly tells rates apart.

    Args:
        tried: the search trials of each method and rates.
        outcomes: by fingerprint; a trial that failed (diverged) is not there and rules its rates out.
        per_target: choose for each target by itself.

    Returns:
        Rates by method and target (the target is "" where one choice is for all), and in the same way why there are
        none: every choice has a failed trial, or none could be tried.
    """
    ranks: dict[tuple[RateKey, str], dict[Rate, tuple[float, float]]] = {}
    for (key, rate), specs in tried.items():
        for target, members in _parts(specs, per_target).items():
            found = [outcomes[spec.fingerprint].validation for spec in members if spec.fingerprint in outcomes]
            by_rate = ranks.setdefault((key, target), {})
            if members and len(found) == len(members):
                means = {name: statistics.fmean(scores[name] for scores in found) for name in ("score", "loss")}
                by_rate[rate] = goodness(means)
    chosen = {place: max(by_rate, key=by_rate.__getitem__) for place, by_rate in ranks.items() if by_rate}
    failed = {
        (key, target): f"rates.{key}: a trial{f' of {target}' if target else ''} failed at every rate; lower rates"
        for (key, target), by_rate in ranks.items()
        if not by_rate
    }
    return chosen, failed


def _parts(specs: Sequence[TrialSpec], per_target: bool) -> dict[str, list[TrialSpec]]:
    if not per_target:
        return {"": list(specs)}
    parts: dict[str, list[TrialSpec]] = {}
    for spec in specs:
        parts.setdefault(spec.task, []).append(spec)
    return parts
