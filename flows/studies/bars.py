"""Whether a study meets its bars: `python -m flows.studies.bars flows/studies/few-shot-suite*.json`.

Several files are parts of one study: other methods or other k of the same plan, run elsewhere or later. The bars are
those that were set before any row was tested (flows/studies/README.md). Means are over targets and seeds, test rows
only; beside each stands the standard deviation over seeds of the same difference.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

BASELINES = ("probe", "tfidf", "lora", "full", "prompt-tuning", "in-context")
SINGLE = ("untrained", "scratch", "transfer", "best-source", "multitask")
SENTIMENT = ("movie-polarity", "tweet-polarity")
LEFT_OUT = "bbc-topic"  # of all choosing of defaults
Scores = Mapping[tuple[str, int, str], Mapping[int, float]]  # target, k, variant -> seed -> percent


@dataclass(frozen=True)
class Bar:
    """One sentence of the bars at one k: `points` is by how much it was met; None: what it needs is not there."""

    name: str
    k: int
    points: float | None
    told: str

    def __str__(self) -> str:
        verdict = (
            "not measured" if self.points is None else "met" if self.points >= 0 else f"missed by {-self.points:.1f}"
        )
        return f"{self.name}, k = {self.k}: {verdict}. {self.told}"


def bars(*parts: Mapping[str, Any]) -> list[Bar]:
    """Each bar at each k of a study's JSON, or of all its parts' (`flows.reporting.study_table.write_study`)."""
    scores = _scores([row for part in parts for row in part["rows"]])
    ensembles = [one for part in parts for one in part.get("ensembles", [])]
    found: list[Bar] = []
    for k in sorted({k for _, k, _ in scores}, reverse=True):
        targets = sorted({target for target, one, _ in scores if one == k})
        found += _auto("1 auto", scores, k, targets)
        found.append(_ahead("2 scratch against prompt tuning", scores, k, targets, "scratch", "prompt-tuning", 0))
        found.append(_ahead("3 transfer against scratch", scores, k, targets, "transfer", "scratch", 5))
        for target in (target for target in targets if target in SENTIMENT):
            found.append(_ahead(f"3 transfer on {target}", scores, k, [target], "transfer", "scratch", 0))
        found.append(_ensembles(ensembles, k))
        found += _auto(f"5 auto on {LEFT_OUT}", scores, k, [target for target in targets if target == LEFT_OUT])
    return found


def _scores(rows: Iterable[Mapping[str, Any]]) -> Scores:
    """The untrained has one score, which counts for each seed of its target and k."""
    found = {
        (row["target"], row["k"], row["variant"]): dict(zip(row["seeds"], row["scores"], strict=True))
        for row in rows
        if row["k"] is not None
    }
    for (target, k, variant), scores in list(found.items()):
        if variant == "untrained":
            (score,) = scores.values()
            seeds = {seed for key, others in found.items() if key[:2] == (target, k) for seed in others}
            found[target, k, variant] = dict.fromkeys(sorted(seeds), score)
    return found


def _auto(name: str, scores: Scores, k: int, targets: Collection[str]) -> Iterable[Bar]:
    """Within a point of the best single method on each target, and so much above the best baseline on the mean."""
    if not targets:
        return
    if k == 16:  # the bar at k = 4 is of the mean alone
        for target in targets:
            label = name if target in name else f"{name} on {target}"
            yield _least(f"{label}, within a point", scores, k, [target], (*SINGLE, *BASELINES), -1)
    yield _least(name, scores, k, targets, BASELINES, 3 if k == 16 else 2)


def _least(name: str, scores: Scores, k: int, targets: Collection[str], others: Iterable[str], least: float) -> Bar:
    """`_ahead` of the one that auto is least ahead of."""
    found = [_ahead(name, scores, k, targets, "auto", other, least) for other in others]
    measured = [bar for bar in found if bar.points is not None]
    if not measured:
        return Bar(name, k, None, "auto or what it is compared with is missing")
    return min(measured, key=attrgetter("points"))


def _ahead(name: str, scores: Scores, k: int, targets: Collection[str], one: str, other: str, least: float) -> Bar:
    """Whether a variant is so many points ahead of another on the mean over targets, of seeds that both have."""
    mine, theirs = _by_seed(scores, k, targets, one), _by_seed(scores, k, targets, other)
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return Bar(name, k, None, f"{one} or {other} is missing")
    gains = [mine[seed] - theirs[seed] for seed in seeds]
    gain, spread = statistics.fmean(gains), f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    means = ", ".join(
        f"{variant} {statistics.fmean(found[seed] for seed in seeds):.1f}"
        for variant, found in ((one, mine), (other, theirs))
    )
    return Bar(name, k, gain - least, f"{means}: {gain:+.1f}{spread} over {len(seeds)} seeds, asked {least:+g}")


def _by_seed(scores: Scores, k: int, targets: Collection[str], variant: str) -> dict[int, float]:
    """Means over targets, of seeds that have them all."""
    found = [scores.get((target, k, variant), {}) for target in targets]
    seeds = set.intersection(*(set(one) for one in found)) if found else set()
    return {seed: statistics.fmean(one[seed] for one in found) for seed in seeds}


def _ensembles(ensembles: Iterable[Mapping[str, Any]], k: int) -> Bar:
    name, found = "4 ensembles against their mean member", [one for one in ensembles if one["k"] == k]
    if not found:
        return Bar(name, k, None, "there are none")
    gains = [one["gain"] for one in found]
    spread = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    gain = statistics.fmean(gains)
    return Bar(name, k, gain - 1, f"{gain:+.1f}{spread} over {len(gains)} ensembles, asked +1")


if __name__ == "__main__":
    print(*bars(*(json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:])), sep="\n")
