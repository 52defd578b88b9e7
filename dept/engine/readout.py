"""How an adapter's scores become answers, chosen after training by loss on its validation rows.

The scores are computed once. Each pair of a head's weight and a calibration of the words is a candidate; each has the
temperature of the lowest loss, and is judged by its loss on every row at the temperature that the other rows give
(leave-one-out), so that one that only fits the rows gains nothing. What is plain stays, unless another is better by
more than the noise of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dept.batches.tokenise import Row
from dept.config import Calibrated, Calibration
from dept.engine.evaluate import Raw, answers_of, summarise
from dept.readout import Readout

WEIGHTS = (0.5, 0.0, 0.25, 0.75, 1.0)  # of a head; the first is kept where nothing speaks for another
TEMPERATURES = tuple(2 ** (i / 4) for i in range(-8, 17))  # a quarter to sixteen
# Standard errors of the mean difference by which a candidate must be better than a plainer one. Untrained SmolLM2, mean
# accuracy over 40 draws of k = 16, 200 test rows, with none and at 0, 0.5, 1, 2: sms-spam 13.0, 42.0, 40.1, 37.1, 24.0;
# bbc-topic 64.5, 74.6, 74.6, 72.4, 68.2; movie-polarity 81.5, 82.3, 82.4, 82.2, 82.2; tweet-polarity 93.0, 92.9, and
# 93.0 thrice. Expected calibration error, none and at 0.5, in that order: 80.5, 21.0; 7.1, 9.3; 12.9, 6.5; 19.2, 5.0.
ERRORS = 0.5


@dataclass(frozen=True)
class Scored:
    """Scores of the rows that a readout is chosen by.

    Attributes:
        validation: of the validation rows, `gold` their right labels; none: nothing is chosen.
        texts: of more texts of the task, whose labels play no part (batch).
        neutral: of content-free inputs (contextual).
    """

    validation: Raw
    gold: Sequence[int]
    texts: Raw
    neutral: Raw


@dataclass(frozen=True)
class Known:
    """Rows that a readout may be chosen by. Of the shots the texts alone count; `neutral` are content-free."""

    validation: Sequence[Row]
    shots: Sequence[Row] = ()
    neutral: Sequence[Row] = ()


@dataclass(frozen=True)
class Settled:
    """A chosen readout, what is to be told about it, and what validation gives with it (empty without such rows)."""

    readout: Readout
    told: dict[str, Any]
    best: dict[str, float] = field(default_factory=dict)


def settle(
    rows: Known,
    asked: Calibration,
    score: Callable[[Sequence[Row]], Raw],
    raw: Raw | None = None,
    weights: Sequence[float] = WEIGHTS,
) -> Settled | None:
    """Score what is not scored yet, and choose.

    None where there is nothing to choose, or to choose by: no labels that all rows have, or no validation rows and no
    calibration that is asked for by name.

    Args:
        score: what an adapter, or a baseline, gives rows.
        raw: what it gave the validation rows, if that is known.
        weights: see `choose`.
    """
    labels = {len(row.candidates) for row in (*rows.validation, *rows.neutral, *rows.shots)}
    if len(labels) != 1 or labels == {1} or (not rows.validation and asked in ("none", "choose")):
        return None
    # Of a source's many rows those of validation are enough.
    few = not rows.validation or len(rows.shots) <= len(rows.validation)
    texts = rows.shots if few and asked in ("choose", "batch") else ()
    neutral = rows.neutral if asked in ("choose", "contextual") else ()
    missing = rows.validation if raw is None else ()
    found = score([*missing, *texts, *neutral])
    validation, rest = found.divided(len(missing))
    scored = Scored(raw or validation, [row.gold for row in rows.validation], *rest.divided(len(texts)))
    readout, told, _ = choose(scored, asked, weights)
    if not rows.validation:
        return Settled(readout, told)
    answers = answers_of([readout], [(0, row) for row in rows.validation], scored.validation)
    return Settled(readout, told, summarise(answers, rows.validation))


def kept(readout: Readout, heads: bool) -> Readout | None:
    """A readout as an adapter's file has it: none where the words' own log-probabilities come out."""
    return readout if heads or not readout.plain else None


def given(readout: Readout, heads: bool) -> tuple[Readout | None, dict[str, Any]]:
    """The same, and what is to be told, of a readout that was chosen before an adapter was trained."""
    return kept(readout, heads), _told(readout, heads)


def biases(scored: Scored, asked: Calibration) -> dict[Calibrated, tuple[float, ...]]:
    """The calibrations that may be chosen, each with what it takes from the words' log-probabilities (nats).

    contextual: log of the mean probability over content-free inputs (Zhao et al. 2021, arXiv 2102.09690, section 5).
    batch: over texts and validation rows (Zhou et al. 2023, arXiv 2309.17249, equation 5).
    """
    found: dict[Calibrated, tuple[float, ...]] = {} if asked in ("contextual", "batch") else {"none": ()}
    known: dict[Calibrated, list[list[float]]] = {
        "contextual": scored.neutral.words,
        "batch": [*scored.texts.words, *scored.validation.words],
    }
    for name, lines in known.items():
        if asked in ("choose", name) and lines:
            bias = _log_mean(lines)
            if all(map(math.isfinite, bias)):
                found[name] = tuple(bias)
    return found or {"none": ()}


class Choice(NamedTuple):
    """A readout, what is to be told about it, and of each row that it was chosen by the temperature that the other rows
    give (none where none was chosen).
    """

    readout: Readout
    told: dict[str, Any]
    temperatures: tuple[float, ...] = ()


def choose(scored: Scored, asked: Calibration, weights: Sequence[float] = WEIGHTS) -> Choice:
    """The readout of an adapter, and what is to be told about the choice.

    Without validation rows the calibration that was asked for is used as it is; `choose` then leaves the words alone.

    Args:
        weights: of a head, to choose among, the plainest first; without a head they play no part.

    Returns:
        What is told: `calibration`, `weight` (with a head), `temperature`, and where there are validation rows their
        mean loss (nats) `plain`, by the first candidate as it is, and `loss`, leave-one-out.
    """
    known = biases(scored, asked)
    heads = scored.validation.head is not None
    tried: list[Readout] = []
    for weight in weights if heads else (0.5,):
        names: Iterable[Calibrated] = ("none",) if heads and weight == 1 else known  # the words count nothing
        tried += [Readout(weight, name, known.get(name, ())) for name in names]
    if asked == "choose":
        tried.sort(key=lambda one: one.calibration != "none")  # stable: the weights keep their order
    if not scored.gold:
        return Choice(tried[0], _told(tried[0], heads))
    if asked == "none" and not heads:
        return Choice(tried[0], {})
    losses = _losses(tried, scored)  # [candidates, temperatures, rows]
    temperatures = torch.tensor(TEMPERATURES, dtype=torch.float64)
    if asked == "none":
        temperatures = temperatures.where(temperatures == 1, math.inf)
    left_out, others, best = _leave_one_out(losses, temperatures)
    place = plainest(left_out)
    one = tried[place]
    found = Readout(one.weight, one.calibration, one.bias, TEMPERATURES[int(best[place])])
    plain = float(losses[0, TEMPERATURES.index(1.0)].mean())
    told = _told(found, heads) | {"plain": plain, "loss": float(left_out[place].mean())}
    return Choice(found, told, tuple(TEMPERATURES[at] for at in others[place].tolist()))


def temper(scores: list[list[float]], gold: Sequence[int], pull: float = 1.0) -> Choice:
    """The temperature alone, of log-scores of labels [rows, labels], by the rule of `choose`.

    Args:
        pull: how many times as much as there a temperature costs that is far from 1.

    Returns:
        What is told: `calibration`, `temperature`, and the mean loss (nats) `plain`, without it, and `loss`,
        leave-one-out.
    """
    losses = _losses([Readout()], Scored(Raw(scores), gold, Raw([]), Raw([])))
    left_out, others, best = _leave_one_out(losses, torch.tensor(TEMPERATURES, dtype=torch.float64), pull)
    found = Readout(temperature=TEMPERATURES[int(best[0])])
    plain = float(losses[0, TEMPERATURES.index(1.0)].mean())
    told = _told(found, heads=False) | {"plain": plain, "loss": float(left_out[0].mean())}
    return Choice(found, told, tuple(TEMPERATURES[at] for at in others[0].tolist()))


def _losses(tried: Sequence[Readout], scored: Scored) -> Tensor:
    """Loss (nats) of each row under each candidate at each temperature."""
    heads: Sequence[list[float] | None] = scored.validation.head or [None] * len(scored.gold)
    table = torch.tensor(
        [[one.answer(w, h) for w, h in zip(scored.validation.words, heads, strict=True)] for one in tried],
        dtype=torch.float64,
    )
    cooled = (table[:, None] / torch.tensor(TEMPERATURES, dtype=torch.float64)[:, None, None]).log_softmax(-1)
    gold = torch.tensor(list(scored.gold)).expand(cooled.shape[:3])
    return -cooled.gather(-1, gold[..., None])[..., 0].nan_to_num(nan=math.inf)


def _leave_one_out(losses: Tensor, temperatures: Tensor, pull: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each row [candidates, rows] at the temperature of the others, that temperature, and that [candidates] of
    all; temperatures by their places.

    A temperature far from 1 costs as much as half a row that is off by one deviation of log T (times `pull`): where all
    rows are right, the lowest one would be the best otherwise.
    """
    cost = (pull * temperatures.log() ** 2 / 2)[:, None]
    total = losses.sum(-1, keepdim=True)
    others = (total - losses + cost).argmin(1, keepdim=True)
    return losses.gather(1, others)[:, 0], others[:, 0], (total[..., 0] + cost[:, 0]).argmin(1)


def plainest(losses: Tensor) -> int:
    """From the plainest of candidates [C, rows] on to that of the largest gain, while it is more than the noise."""
    place = 0
    while True:
        better = losses[place] - losses  # what a row gains
        rows = better.shape[1]
        noise = better.std(1) / math.sqrt(rows) if rows > 1 else torch.zeros(len(losses), dtype=losses.dtype)
        gain = better.mean(1) - ERRORS * noise
        following = int(gain.argmax())
        if not gain[following] > 1e-9:
            return place
        place = following


def _log_mean(lines: Sequence[Sequence[float]]) -> list[float]:
    """Log of the mean probability of each label."""
    table = torch.tensor([list(line) for line in lines], dtype=torch.float64).log_softmax(-1)
    found: list[float] = (table.logsumexp(0) - math.log(len(lines))).tolist()
    return found


def _told(found: Readout, heads: bool) -> dict[str, Any]:
    weight: Mapping[str, Any] = {"weight": found.weight} if heads else {}
    return {"calibration": found.calibration, **weight, "temperature": found.temperature}
