"""What a search's out-of-sample scores say: how each candidate answers, and how many of the best answer together.

Each row was scored by the fold that has not learned from it, so readouts and members are chosen on rows that are new to
what is judged; what is then trained on all rows takes the readout as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import eq
from typing import Any

import torch

from dept.config import Calibration
from dept.constants import VOTES
from dept.engine.evaluate import Raw
from dept.engine.readout import WEIGHTS, Choice, Scored, choose, plainest
from dept.readout import Readout, mean_answers


@dataclass(frozen=True)
class Decided:
    """Which candidates of a search answer, and how.

    Attributes:
        members: their numbers, the best first; one alone, or several whose answers are averaged.
        readouts: of each of them. told: of the best, see `dept.engine.readout.choose`.
        loss, score: mean loss (nats) and right answers (percent) of what was decided, on rows held out.
        losses: mean loss of the best 1, 2, ... together.
        beside: linear baselines that answer with them, the best first. weights: of members, then of these.
    """

    members: tuple[int, ...]
    readouts: tuple[Readout, ...]
    told: dict[str, Any]
    loss: float
    score: float
    losses: tuple[float, ...]
    beside: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


def decide(
    raws: Mapping[int, Raw],
    gold: Sequence[int],
    asked: Calibration,
    heads_alone: Mapping[int, bool],
    most: int = 1,
    beside: Mapping[str, list[list[float]]] | None = None,
) -> Decided:
    """Rank candidates by their loss with the readout that is best for each, and join the best of them.

    The best of many candidates owes a part of its low loss to luck, which a mean of several evens out. So as many
    answer together as may, unless fewer are better by more than the noise of these rows. Linear baselines, which err
    elsewhere, join them by the same rule, with one vote each beside the candidates' `VOTES`.

    Args:
        raws: of each candidate the scores of all rows, see `dept.engine.halving.Found.raws`. gold: right labels.
        asked: see `dept.engine.readout.choose`; texts that calibrate are the held-out rows without their labels.
        heads_alone: candidates whose head answers without the words.
        most: candidates that answer together at most.
        beside: log-probabilities of all rows by linear baselines that may join them.
    """
    if asked == "contextual":
        asked = "none"  # content-free inputs were not scored: it is settled after the last training
    ranked = []
    for number, raw in raws.items():
        found = choose(Scored(raw, gold, Raw([]), Raw([])), asked, (1.0,) if heads_alone[number] else WEIGHTS)
        answers = _held_out(found, raw)
        loss = _mean(_losses(answers, gold))
        ranked.append((loss if math.isfinite(loss) else math.inf, number, found, answers))
    ranked.sort(key=lambda one: one[:2])
    best = ranked[:1]
    for one in ranked[1:]:
        copy = any(one[3] == other[3] for other in best)  # it would add nothing
        if len(best) < most and not copy and math.isfinite(one[0]):
            best.append(one)
    joint = [mean_answers([one[3] for one in best[:count]]) for count in range(1, len(best) + 1)]
    losses = [_losses(answers, gold) for answers in joint]
    count = len(best) - plainest(torch.tensor(losses[::-1], dtype=torch.float64))
    members = [one[3] for one in best[:count]]
    finite = [one for one in (beside or {}).items() if all(math.isfinite(part) for line in one[1] for part in line)]
    linear = sorted(finite, key=lambda one: _mean(_losses(one[1], gold)))
    shares: list[list[float] | None] = [None]
    shares += [[VOTES / count] * count + [1.0] * joined for joined in range(1, len(linear) + 1)]
    voices = [
        mean_answers([*members, *(answers for _, answers in linear[:joined])], weights)
        for joined, weights in enumerate(shares)
    ]
    all_losses = [_losses(answers, gold) for answers in voices]
    joined = len(linear) - plainest(torch.tensor(all_losses[::-1], dtype=torch.float64))
    answered = [max(range(len(line)), key=line.__getitem__) for line in voices[joined]]
    return Decided(
        members=tuple(one[1] for one in best[:count]),
        readouts=tuple(one[2].readout for one in best[:count]),
        told=best[0][2].told,
        loss=_mean(all_losses[joined]),
        score=100 * sum(map(eq, answered, gold)) / len(gold),
        losses=tuple(map(_mean, losses)),
        beside=tuple(name for name, _ in linear[:joined]),
        weights=tuple(shares[joined] or ()),
    )


def _held_out(found: Choice, raw: Raw) -> list[list[float]]:
    """Answers to the rows, each at the temperature that the others give, so that no row is judged by its own."""
    heads: Sequence[list[float] | None] = raw.head or [None] * len(raw.words)
    cooled = found.temperatures or (found.readout.temperature,) * len(raw.words)
    return [
        replace(found.readout, temperature=own).answer(words, head)
        for words, head, own in zip(raw.words, heads, cooled, strict=True)
    ]


def _losses(answers: Sequence[Sequence[float]], gold: Sequence[int]) -> list[float]:
    return [-line[label] for line, label in zip(answers, gold, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
