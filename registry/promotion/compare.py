"""Is a candidate better than the champion? A paired test on the same rows. Pure.

Metrics that are the share of right answers are compared by McNemar's exact test: of the rows that one has right and the
other wrong, each is as likely to speak for either where both are as good. Other metrics are compared by the paired
bootstrap (`resample`). Sources: McNemar (1947); Tango (1998), the interval; Connor (1987), the rows that are needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from registry.promotion.resample import bootstrap
from tasks.formatting import Example
from tasks.metrics import INVALID, exact, measure
from tasks.spec import Task

CONFIDENCE = 0.95
FIRST_SHARE = 0.65
POWER = 0.8  # with which `needed` rows would show a difference
LEAST = 1.0  # points: what `needed` counts for where neither margin nor difference is larger
# What `needed` counts with before any row was seen: 5 points where one row in ten is answered differently.
_GUESS = 5.0, 0.1
_FAR = 1e6  # a score beyond every quantile
Answers = Sequence[int] | Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """What a paired test found. Scores, difference and interval in points of the task's first metric (percent).

    Attributes:
        better: the candidate takes over: better by more than the margin, at the level `alpha`.
        told: False where the rows cannot tell: a difference above the margin is still possible. `needed` says how many
            rows would show one (of the size seen, at least of the margin) in 80 of 100 cases.
        low, high: two-sided interval of the difference at the confidence that was asked for.
        p: chance of as large a difference between equal adapters, one-sided. `alpha`: the part of the error allowed in
            all decisions about this champion that this one may spend (`spent`).
        wins, losses: rows (questions) that only the candidate has right, that only the champion has; for metrics other
            than the share of right ones: rows where its answer is nearer to the right one, further from it.
        rows_hash: sha256 over the rows, their order and their right answers.
    """

    better: bool
    told: bool
    reason: str
    metric: str
    test: Literal["mcnemar", "bootstrap"]
    champion: float
    candidate: float
    difference: float
    low: float
    high: float
    p: float
    alpha: float
    margin: float
    confidence: float
    wins: int
    losses: int
    rows: int
    rows_hash: str
    needed: int | None


@dataclass(frozen=True)
class _Found:
    low: float
    high: float
    p: float
    wins: int
    losses: int
    needed: int


def spent(confidence: float, looks: int) -> float:
    """Error that one decision may spend after `looks` earlier ones about the same champion.

    All together stay below 1 - confidence, however often it is asked. The first may spend 65 % of it, so that at 0.95
    five rows that all speak for the candidate are enough; the others 35 % * 1/2, 1/6, 1/12, ...
    """
    share = FIRST_SHARE if not looks else (1 - FIRST_SHARE) / (looks * (looks + 1))
    return (1 - confidence) * share


def rows_hash(rows: Sequence[Example]) -> str:
    """sha256 (hex) over ids, texts, right answers and pictures of rows, in their order."""
    lines = (f"{row.id}\t{row.text}\t{row.target}" + (f"\t{row.picture.sha256}" if row.picture else "") for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def compare(
    task: Task,
    rows: Sequence[Example],
    champion: Answers,
    candidate: Answers,
    *,
    margin: float,
    confidence: float = CONFIDENCE,
    looks: int = 0,
) -> Comparison:
    """Compare two adapters by their answers to the same rows.

    Args:
        champion, candidate: for each row the class index (INVALID where a score is not finite) or the text.
        margin: points that the candidate must be better by, more than; 0 or more.
        confidence: 0.5 to 1, of all decisions about this champion together.
        looks: how many decisions about this champion came before.

    Raises:
        ValueError: answers that are not one a row, a negative margin, a confidence out of range.
    """
    if not margin >= 0 or not 0.5 <= confidence < 1 or looks < 0:
        raise ValueError(f"margin {margin}, confidence {confidence}, looks {looks}")
    if not len(champion) == len(candidate) == len(rows):
        raise ValueError(f"{len(champion)} and {len(candidate)} answers for {len(rows)} rows")
    metric, alpha = task.metrics[0], spent(confidence, looks)
    old, new = (measure(task, rows, made)["score"] if rows else math.nan for made in (champion, candidate))
    right = _right(task, rows, champion), _right(task, rows, candidate)
    if right[0] is not None and right[1] is not None:
        test: Literal["mcnemar", "bootstrap"] = "mcnemar"
        found = _mcnemar(right[0], right[1], margin, confidence, alpha)
    else:
        test = "bootstrap"
        found = _bootstrap(task, rows, champion, candidate, margin, confidence, alpha)
    difference = new - old
    better = math.isfinite(new) and difference > margin and found.p <= alpha
    told = better or found.high <= margin
    return Comparison(
        better=better,
        told=told,
        reason=_reason(metric, old, new, margin, confidence, alpha, found, len(rows), better, told),
        metric=metric,
        test=test,
        champion=old,
        candidate=new,
        difference=difference,
        low=found.low,
        high=found.high,
        p=found.p,
        alpha=alpha,
        margin=margin,
        confidence=confidence,
        wins=found.wins,
        losses=found.losses,
        rows=len(rows),
        rows_hash=rows_hash(rows),
        needed=None if told else max(found.needed, len(rows) + 1),
    )


def discordance(wins: int, losses: int) -> float:
    """One-sided p of McNemar's exact test: chance of at least `wins` of `wins + losses` fair tosses."""
    if not wins + losses:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)


def interval(wins: int, losses: int, n: int, confidence: float) -> tuple[float, float]:
    """Tango's score interval of the difference of two paired shares, in points; (-100, 100) for no rows."""
    if not n:
        return -100.0, 100.0
    z = float(norm.isf((1 - confidence) / 2))

    def score(difference: float) -> float:
        a, b = 2 * n, -wins - losses + (2 * n - wins + losses) * difference
        c = -losses * difference * (1 - difference)
        q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        spread = n * (2 * q + difference * (1 - difference))
        gap = wins - losses - n * difference
        return gap / math.sqrt(spread) if spread > 0 else math.copysign(_FAR, gap) if gap else 0.0

    def end(far: float, target: float) -> float:
        """Where the score, which falls from one end of the scale to the other, is `target`."""
        if (score(far) - target) * (score(seen) - target) >= 0:
            return far
        return float(brentq(lambda x: max(-_FAR, min(_FAR, score(x) - target)), far, seen))

    seen = (wins - losses) / n
    return 100 * min(end(-1 + 1e-9, z), seen), 100 * max(end(1 - 1e-9, -z), seen)


def needed(difference: float, disagreement: float, alpha: float) -> int:
    """Rows that show a true difference (points) at level `alpha` in 80 of 100 cases.

    Args:
        disagreement: share of the rows that one of both has right and the other wrong.
    """
    share = difference / 100
    disagreement = max(disagreement, share)
    z, power = float(norm.isf(alpha)), float(norm.ppf(POWER))
    rows = (z * math.sqrt(disagreement) + power * math.sqrt(max(0.0, disagreement - share**2))) ** 2 / share**2
    fewest = math.ceil(math.log2(1 / alpha)) / disagreement  # fewer that differ prove nothing, even all one way
    return math.ceil(max(rows, fewest))


def _right(task: Task, rows: Sequence[Example], answers: Answers) -> list[bool] | None:
    """Right or wrong for each row (each question), where the metric is the share of right ones; else None."""
    metric = task.metrics[0]
    if metric == "accuracy":
        return [guess == row.label for row, guess in zip(rows, answers, strict=True)]
    if metric == "squad_em":
        said = zip(rows, answers, strict=True)
        return [any(exact(str(text), answer) for answer in row.answers) for row, text in said]
    if metric == "multirc_em":
        groups: dict[str, bool] = {}
        for row, guess in zip(rows, answers, strict=True):
            known = 1 - row.label if guess == INVALID else guess
            groups[row.group] = groups.get(row.group, True) and known == row.label
        return list(groups.values())
    return None


def _mcnemar(
    champion: Sequence[bool], candidate: Sequence[bool], margin: float, confidence: float, alpha: float
) -> _Found:
    n = len(champion)
    wins = sum(new and not old for old, new in zip(champion, candidate, strict=True))
    losses = sum(old and not new for old, new in zip(champion, candidate, strict=True))
    low, high = interval(wins, losses, n, confidence)
    if n:
        wanted, disagreement = max(100 * (wins - losses) / n, margin, LEAST), (wins + losses) / n
    else:
        wanted, disagreement = max(margin, _GUESS[0]), _GUESS[1]
    return _Found(low, high, discordance(wins, losses), wins, losses, needed(wanted, disagreement, alpha))


def _bootstrap(
    task: Task,
    rows: Sequence[Example],
    champion: Answers,
    candidate: Answers,
    margin: float,
    confidence: float,
    alpha: float,
) -> _Found:
    if not rows:
        wanted = max(margin, _GUESS[0])
        return _Found(-math.inf, math.inf, 1.0, 0, 0, needed(wanted, _GUESS[1], alpha))
    found = bootstrap(task, rows, champion, candidate, confidence)
    wanted = max(found.difference, margin, LEAST)
    if found.spread > 0:
        z = float(norm.isf(alpha)) + float(norm.ppf(POWER))
        rows_needed = math.ceil(len(rows) * (z * found.spread / wanted) ** 2)
    else:
        rows_needed = needed(wanted, _GUESS[1], alpha)
    return _Found(found.low, found.high, found.p, found.wins, found.losses, rows_needed)


def _reason(
    metric: str,
    old: float,
    new: float,
    margin: float,
    confidence: float,
    alpha: float,
    found: _Found,
    n: int,
    better: bool,
    told: bool,
) -> str:
    if not n:
        return f"no row may judge: about {found.needed} would be needed; the champion stays"
    said = (
        f"{metric} {new:.2f} against {old:.2f} on {n} rows, {new - old:+.2f} "
        f"({100 * confidence:g}% interval {found.low:.2f} to {found.high:.2f}), p {found.p:.3g}"
    )
    if better:
        return f"{said}: more than {margin:g} points better, and p is at most {alpha:.3g}"
    if told:
        return f"{said}: not more than {margin:g} points better"
    size = max(new - old, margin, LEAST) if math.isfinite(new - old) else max(margin, LEAST)
    more = max(found.needed, n + 1)
    why = f"p is above {alpha:.3g}" if new - old > margin else f"not more than {margin:g} points better so far"
    return f"{said}: {why}; too few rows to tell: about {more} would show a difference of {size:.1f} points"
