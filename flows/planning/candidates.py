"""What a search tries: starts, answers, objectives, shapes at one budget, and rates, spread evenly. Pure, no torch.

A low-discrepancy sequence (Halton's, scrambled by a fixed seed: Owen 2017, arXiv 1706.02808) fills the space of rates,
on a logarithmic scale, more evenly than random points, and is the same for every draw, machine and run. The first
candidate of each start has the plan's own shape and rates; answers, objective and steps are the search's. Answers
change from round to round of the starts, so that each start meets each answer, the first one first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dept.config import AdapterConfig, Answers, Objective, TrainConfig
from dept.trial import Candidate, Init, Start
from flows.planning.defaults import RateKey
from flows.planning.search_plan import SearchPlan

Range = tuple[float, float]
# Peak rates that are tried; of P for dept and its starts from sources, and of A and B, and the head.
RANGES: Mapping[str, Range] = {
    "dept": (1e-2, 1e-1),
    "transfer": (1e-3, 1e-1),
    "adept": (1e-2, 3e-1),
    "prompt-tuning": (1e-2, 3e-1),
    "lora": (1e-4, 1e-2),
    "lora-r8": (1e-4, 1e-2),
    "full": (1e-6, 3e-4),
    "low-rank": (2e-5, 2e-3),
    "head": (1e-4, 1e-2),
    "pictures": (1e-3, 1e-2),
}


@dataclass(frozen=True)
class Way:
    """One way to start: how it was found, its adapter (None: vocabulary text), and the recipe of such trials.

    key: of the ranges that its rates are taken from.
    """

    init: Init
    start: Start
    source_task: str | None
    source_sha256: str | None
    key: RateKey
    training: TrainConfig


def candidates(
    asked: SearchPlan,
    ways: Sequence[Way],
    shape: AdapterConfig,
    d: int,
    answers: Sequence[Answers],
    objectives: Sequence[Objective],
) -> tuple[Candidate, ...]:
    """As many candidates as are asked for, and at least one of each way; the ways in turn.

    Args:
        shape: of the plan; a start from a source keeps it, for its adapter has it already.
        d: width of the backbone.
        answers, objectives: choices; none: those of shape and recipe. Answers are taken in this order.
    """
    points = _points(max(asked.candidates, len(ways)))
    made = []
    for number, point in enumerate(points):
        way = ways[number % len(ways)]
        room = [shape] if way.source_sha256 or not asked.shapes else shapes(shape, d)
        told = {"answers": answers[number // len(ways) % len(answers)] if answers else shape.answers}
        recipe = number < len(ways)  # the first of each way is the plan's own
        adapter = shape.model_copy(update=told) if recipe else _pick(room, point[4]).model_copy(update=told)
        training = way.training.model_copy(
            update={
                "steps": asked.steps,
                "eval_every": asked.eval_every,
                "objective": _pick(objectives or [way.training.objective], point[3]),
                **({} if recipe else _rates(asked, way.key, point, shape.pictures is not None)),
            }
        )
        made.append(
            Candidate(
                init=way.init,
                start=way.start,
                source_task=way.source_task,
                source_sha256=way.source_sha256,
                adapter=adapter,
                training=training,
            )
        )
    return tuple(made)


def shapes(shape: AdapterConfig, d: int) -> list[AdapterConfig]:
    """m against r: shapes of about as many trainable numbers, from no low-rank pair to twice the rank."""
    budget, found = shape.blind.trainable(d), [shape]
    for rank in sorted({0, shape.r // 2, 2 * shape.r} - {shape.r}):
        m = round((budget - (shape.s + d) * rank) / d)
        if m >= 1:
            found.append(shape.model_copy(update={"m": m, "r": rank}))
    return found


def _rates(asked: SearchPlan, key: RateKey, point: Sequence[float], sees: bool) -> dict[str, float]:
    where: dict[str, Range] = dict(RANGES)
    where.update({str(of): bounds for of, bounds in asked.ranges.items()})
    names = {"lr_prompt": key, "lr_low_rank": "low-rank", "lr_head": "head"}
    found = {name: _between(where[of], share) for (name, of), share in zip(names.items(), point[:3], strict=True)}
    # As far up its range as the head's: a dimension more would change the points of all searches.
    return found | ({"lr_pictures": _between(where["pictures"], point[2])} if sees else {})


def _between(bounds: Range, share: float) -> float:
    low, high = map(math.log, bounds)
    return float(f"{math.exp(low + share * (high - low)):.3g}")  # three digits, for people


def _pick(choices: Sequence[Any], share: float) -> Any:
    return choices[min(len(choices) - 1, int(share * len(choices)))]


def _points(count: int) -> Iterator[list[float]]:
    from scipy.stats import qmc

    yield from qmc.Halton(5, scramble=True, seed=0).random(count).tolist()
