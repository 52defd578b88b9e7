"""How far the choice of a study could be trusted: `python -m flows.studies.choice flows/studies/few-shot-suite*.json`.

A search chooses by cross-validation over the 2k rows of a draw. Here its promise stands beside what test rows said
later: per method the accuracy on held-out folds of what it chose, and its test score; and of pairs of methods on the
same draw, in how many the one with the lower loss on folds had the higher test score. `auto` chooses among some of
these methods, and by a search of its own.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARED = ("scratch", "best-source", "multitask", "prompt-tuning", "lora", "full", "probe", "tfidf", "in-context")


@dataclass(frozen=True)
class Kept:
    """One search: loss (nats) and score (percent) on held-out folds of what it chose, and that recipe's test score."""

    loss: float
    folds: float
    test: float


@dataclass(frozen=True)
class Trust:
    """The choice at one k.

    methods: name -> (draws, mean score on folds, mean test score).
    pairs, agreed: of methods on one draw; those where the lower loss had the higher test score.
    hindsight: points by which each draw's best method is above the one with the lowest loss, on the mean; in part luck.
    """

    k: int
    methods: Mapping[str, tuple[int, float, float]]
    pairs: int
    agreed: int
    hindsight: float

    def __str__(self) -> str:
        lines = [
            f"k = {self.k}, {name}: {folds:.1f} on folds, {test:.1f} on test rows ({folds - test:+.1f}) over {n} draws"
            for name, (n, folds, test) in self.methods.items()
        ]
        told = f"{self.agreed} of {self.pairs} pairs" if self.pairs else "no pair to compare"
        return "\n".join(
            [
                *lines,
                f"k = {self.k}: the lower loss on folds had the higher test score in {told}; the best method of each "
                f"draw in hindsight is {self.hindsight:.1f} points above the one with the lowest loss",
            ]
        )


def trust(*parts: Mapping[str, Any]) -> list[Trust]:
    """The choice at each k of a study's JSON, or of all its parts' (`flows.reporting.study_table.write_study`)."""
    tested = {
        (row["target"], row["k"], seed, row["variant"]): score
        for part in parts
        for row in part["rows"]
        for seed, score in zip(row["seeds"], row["scores"], strict=True)
    }
    draws: dict[int, dict[tuple[str, int], dict[str, Kept]]] = {}
    for search in (search for part in parts for search in part["searches"]):
        target, k, seed, name = search["target"], search["k"], search["seed"], search["for"]
        score = tested.get((target, k, seed, name))
        if name in COMPARED and score is not None:
            kept = Kept(search["loss"], search["score"], score)
            draws.setdefault(k, {}).setdefault((target, seed), {})[name] = kept
    return [_trust(k, list(draws[k].values())) for k in sorted(draws, reverse=True)]


def _trust(k: int, draws: Iterable[Mapping[str, Kept]]) -> Trust:
    methods = {}
    for name in COMPARED:
        if found := [draw[name] for draw in draws if name in draw]:
            folds, test = statistics.fmean(one.folds for one in found), statistics.fmean(one.test for one in found)
            methods[name] = len(found), folds, test
    pairs = [
        (one.loss < other.loss) == (one.test > other.test)
        for draw in draws
        for one, other in itertools.combinations(draw.values(), 2)
        if one.test != other.test and one.loss != other.loss
    ]
    behind = [
        max(one.test for one in draw.values()) - min(draw.values(), key=lambda one: one.loss).test for draw in draws
    ]
    return Trust(k, methods, len(pairs), sum(pairs), statistics.fmean(behind))


if __name__ == "__main__":
    print(*trust(*(json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:])), sep="\n")
