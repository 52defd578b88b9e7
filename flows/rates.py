"""Learning rates, chosen per method by the same small search on validation rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from dept.trial import TrialOutcome, TrialSpec
from flows.plan import RateKey
from tasks.errors import InputError


def best_rates(
    tried: Mapping[tuple[RateKey, float], Sequence[TrialSpec]], outcomes: Mapping[str, TrialOutcome]
) -> dict[RateKey, float]:
    """Per method the rate with the best mean validation score over all targets, of equals the lower mean loss.

    Args:
        tried: the search trials of each method and rate.
        outcomes: by fingerprint; a trial that failed (diverged) is not there and rules its rate out.

    Raises:
        InputError: every rate of a method has a failed trial.
    """
    ranks: dict[RateKey, dict[float, tuple[float, float]]] = {}
    for (key, rate), specs in tried.items():
        found = [outcomes[spec.fingerprint].validation for spec in specs if spec.fingerprint in outcomes]
        ranks.setdefault(key, {})
        if len(found) == len(specs):
            score, loss = (statistics.fmean(scores[name] for scores in found) for name in ("score", "loss"))
            ranks[key][rate] = (score, -loss)
    for key, by_rate in ranks.items():
        if not by_rate:
            raise InputError(f"rates.{key}: a trial failed at every rate. Remedy: lower rates")
    return {key: max(by_rate, key=by_rate.__getitem__) for key, by_rate in ranks.items()}
