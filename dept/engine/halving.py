"""Asynchronous successive halving: which candidates of a search go on, and which one won. No torch here.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934, in its stopping form: at a rung (a
number of steps) a candidate goes on if its loss is among the best 1/eta, rounded up, of all that have come to that rung
so far. Nobody waits for those who come later, and nobody is called back. A decision follows from losses and from the
order of arrival alone, never from a clock.

Why not Optuna, whose SuccessiveHalvingPruner has this rule: it asks and tells trials one by one, each run by its own
code, while a stack trains all candidates in lockstep and decides about those that arrive together; its study would be a
second ledger beside ours; and its samplers learn from trials that have ended, of which a stack has none when it starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from dept.trial import goodness

Point = tuple[int, float]
Scores = tuple[list[list[float]], list[list[float]] | None]


@dataclass
class Tried:
    """What a candidate has reached; means over the rows of all folds.

    Attributes:
        losses, scores: (step, nats) and (step, percent) of each validation.
        left: why it trains no more, in words; empty while it does.
        failed: it diverged, and cannot win.
    """

    losses: list[Point] = field(default_factory=list)
    scores: list[Point] = field(default_factory=list)
    left: str = ""
    failed: bool = False

    @property
    def best(self) -> tuple[int, dict[str, float]]:
        """Its best step and what it reached there; of equals the first. (-1, {}) before its first validation."""
        points = [
            (step, {"loss": loss, "score": score})
            for (step, loss), (_, score) in zip(self.losses, self.scores, strict=True)
        ]
        return max(points, key=lambda point: goodness(point[1])) if points else (-1, {})


class Halving:
    """The candidates of one search.

    Args:
        candidates: how many there are.
        rungs: steps at which they have to go, unless they are among the best 1 in `eta`.
    """

    def __init__(self, candidates: int, rungs: Sequence[int], eta: int) -> None:
        self.tried = [Tried() for _ in range(candidates)]
        self.rungs, self.eta = frozenset(rungs), eta
        self.arrived: list[tuple[int, int]] = []  # candidate and rung, not yet decided about

    def note(self, candidate: int, step: int, found: Mapping[str, float]) -> None:
        """Note a candidate's validation: mean loss and score over its folds."""
        tried = self.tried[candidate]
        tried.losses.append((step, found["loss"]))
        tried.scores.append((step, found["score"]))
        if step in self.rungs:
            self.arrived.append((candidate, step))

    def fail(self, candidate: int, reason: str) -> None:
        """A candidate diverged."""
        self.tried[candidate].left, self.tried[candidate].failed = reason, True

    def end(self, candidate: int, reason: str) -> None:
        """A candidate has made all its steps, or the time is over."""
        self.tried[candidate].left = self.tried[candidate].left or reason

    def leaving(self) -> list[int]:
        """Who leaves, of those that have come to a rung since this was last asked."""
        gone = []
        for candidate, rung in self.arrived:
            if not self.tried[candidate].left and candidate not in self._best(rung):
                self.tried[candidate].left = f"rung {rung}"
                gone.append(candidate)
        self.arrived = []
        return gone

    def _best(self, rung: int) -> list[int]:
        """The best 1/eta of all that have come to a rung; of equals those that come first."""
        there: list[tuple[tuple[float, float], int]] = []
        for candidate, tried in enumerate(self.tried):
            if not tried.failed and rung in (losses := dict(tried.losses)):
                found = {"loss": losses[rung], "score": dict(tried.scores)[rung]}
                there.append((goodness(found), candidate))
        there.sort(key=lambda pair: pair[0], reverse=True)  # stable: of equals the first
        return [candidate for _, candidate in there[: math.ceil(len(there) / self.eta)]]


@dataclass
class Found:
    """What a search found, and its cost.

    Attributes:
        tried: by candidate. steps, tokens (of training, without padding), seconds: of all folds together.
        over: the bound in minutes ended it, so a faster machine would have gone on.
        raws: of each candidate what words (log-probabilities) and head (logits, or None) gave all rows at its best
            step, each row by the fold that has not learned from it; rows in the order of the folds.
    """

    tried: list[Tried]
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    over: bool = False
    raws: dict[int, Scores] = field(default_factory=dict)

    @property
    def winner(self) -> int | None:
        """The candidate of the lowest mean loss at its best step, of equals the first; None where all failed."""
        ranks = [goodness(tried.best[1]) if not tried.failed else (-math.inf, -math.inf) for tried in self.tried]
        best = max(range(len(ranks)), key=ranks.__getitem__)
        return best if math.isfinite(ranks[best][0]) else None

    def told(self) -> dict[str, Any]:
        """As JSON, without `raws`: winner, steps, tokens, seconds, over, and of each candidate best_step, validation,
        curves, left.
        """
        return {
            "winner": self.winner,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "over": self.over,
            "tried": [
                {
                    "best_step": tried.best[0],
                    "validation": tried.best[1],
                    "losses": tried.losses,
                    "scores": tried.scores,
                    "left": tried.left,
                    "failed": tried.failed,
                }
                for tried in self.tried
            ],
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """What `told` gave, and `raws` by its own name, by way of JSON."""
        tried = [
            Tried(
                [(int(step), float(value)) for step, value in one["losses"]],
                [(int(step), float(value)) for step, value in one["scores"]],
                one["left"],
                one["failed"],
            )
            for one in body["tried"]
        ]
        raws = {int(number): (words, head) for number, (words, head) in body.get("raws", {}).items()}
        return cls(tried, body["steps"], body["tokens"], body["seconds"], body["over"], raws)


def joined(
    curves: Sequence[tuple[Sequence[Point], Sequence[Point]]], rows: Sequence[int]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Step, and loss and score over all rows, of each validation that every fold has made.

    Args:
        curves: of each fold its losses and its scores. rows: that validate each fold.
    """
    folds = [zip(losses, scores, strict=True) for losses, scores in curves]
    for points in zip(*folds, strict=False):  # of folds that failed some are shorter
        parts = [{"loss": loss, "score": score} for (_, loss), (_, score) in points]
        yield points[0][0][0], mean(parts, rows)


def mean(found: Sequence[Mapping[str, float]], rows: Sequence[int]) -> dict[str, float]:
    """Loss and score over all rows of the folds, from those of each fold and its number of rows."""
    return {
        name: sum(part[name] * count for part, count in zip(found, rows, strict=True)) / sum(rows)
        for name in ("loss", "score")
    }
