"""How the scores of words and head become one answer: calibration of the words, weight of the head, temperature."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

from dept.config import Calibrated
from infra.errors import InputError


@dataclass(frozen=True)
class Readout:
    """How an adapter's scores become log-probabilities over its labels; kept in its file and used wherever it answers.

    In order: log-probabilities of the words, `bias` taken from them; the mean with those of the head; all divided by
    the temperature.

    Attributes:
        weight: of the head in the mean of the log-probabilities of words and head, 0 to 1.
        calibration: where the bias comes from: content-free inputs (contextual, Zhao et al. 2021, arXiv 2102.09690) or
            texts without their labels (batch, Zhou et al. 2023, arXiv 2309.17249).
        bias: log of the mean probability that the words have there, nats, one a label; empty: none.
        temperature: above 1 the answers become less sure (Guo et al. 2017, arXiv 1706.04599); the best label stays.

    Raises:
        InputError: a number that is out of its bounds or not finite.
    """

    weight: float = 0.5
    calibration: Calibrated = "none"
    bias: tuple[float, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not _within(self.weight, 0, 1):
            raise InputError(f"adapter: the weight of a head must be from 0 to 1, got {self.weight!r}")
        if not _within(self.temperature, 1e-3, 1e3):
            raise InputError(f"adapter: the temperature must be from 0.001 to 1000, got {self.temperature!r}")
        if self.calibration not in get_args(Calibrated) or bool(self.bias) != (self.calibration != "none"):
            raise InputError(f"adapter: calibration {self.calibration!r} does not go with {len(self.bias)} biases")
        if not all(_within(value, -math.inf, math.inf) for value in self.bias):
            raise InputError(f"adapter: the biases of its words must be finite numbers, got {list(self.bias)}")

    @property
    def plain(self) -> bool:
        """Whether the words' own log-probabilities come out, where there is no head."""
        return not self.bias and self.temperature == 1.0

    @property
    def body(self) -> dict[str, Any]:
        """As an adapter's file holds it; `of` reads it back."""
        return {**asdict(self), "bias": list(self.bias)}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The readout of a file.

        Raises:
            InputError: an unknown key, or numbers as above.
        """
        try:
            return cls(**{**body, "bias": tuple(body.get("bias", ()))})
        except TypeError as error:
            raise InputError(f"adapter: its readout is damaged ({error})") from error

    def answer(self, words: Sequence[float], head: Sequence[float] | None = None) -> list[float]:
        """Log-probabilities (nats) over the labels, from the scores of the words and, where there is one, of a head.

        Raises:
            InputError: another number of labels than the bias has.
        """
        found = normalised(words)
        if self.bias:
            if len(self.bias) != len(found):
                raise InputError(
                    f"adapter: it is calibrated for {len(self.bias)} labels, not {len(found)}. Remedy: score it with "
                    "the words of its own task, or take its readout away (adapter.readout = None)"
                )
            found = normalised([score - bias for score, bias in zip(found, self.bias, strict=True)])
        if head is not None:
            pairs = zip(found, normalised(head), strict=True)
            found = normalised([(1 - self.weight) * w + self.weight * h for w, h in pairs])
        return found if self.temperature == 1 else normalised([score / self.temperature for score in found])


def header_of(readout: Readout | None) -> dict[str, str] | None:
    """What a tensor file's header holds of a readout: it decides answers as tensors do, so the sha256 covers both."""
    return None if readout is None else {"readout": json.dumps(readout.body, sort_keys=True)}


def readout_of(payload: bytes, told: Mapping[str, Any] | None, labels: int = 0) -> Readout | None:
    """The readout that a manifest tells, which the header of the tensor file holds too.

    Args:
        payload: of the tensor file. labels: of a head; 0: there is none.

    Raises:
        InputError: numbers out of bounds or not finite, another readout than the tensor file's, or of other labels.
    """
    size = int.from_bytes(payload[:8], "little")  # https://github.com/huggingface/safetensors#format
    kept = json.loads(payload[8 : 8 + size]).get("__metadata__", {}).get("readout")
    found = None if told is None else Readout.of(told)
    if (header_of(found) or {}).get("readout") != kept:
        raise InputError("adapter: its manifest tells another readout than its tensor file. Remedy: restore both files")
    if found is not None and labels and len(found.bias) not in (0, labels):
        raise InputError(f"adapter: a readout of {len(found.bias)} labels does not go with a head of {labels}")
    return found


def normalised(scores: Sequence[float]) -> list[float]:
    """Log-probabilities of sum 1 from log-scores; what is not finite stays as it is."""
    highest = max(scores)
    if not math.isfinite(highest):
        return list(scores)
    total = highest + math.log(sum(math.exp(score - highest) for score in scores))
    return [score - total for score in scores]


def mean_answers(
    parts: Sequence[Sequence[Sequence[float]]], weights: Sequence[float] | None = None
) -> list[list[float]]:
    """Log-probabilities (nats) over the labels of each row, from those of each member: their mean, of sum 1 again.

    The mean of log-probabilities is a geometric mean of probabilities, whose loss on any row is at most the mean loss
    of the members (Hinton 2002, Training Products of Experts, https://doi.org/10.1162/089976602760128018).

    Args:
        parts: of each member, scores of every row; they need no sum.
        weights: of each member in the mean; None: all alike.
    """
    if len(parts) == 1:
        return [list(line) for line in parts[0]]
    shares = weights or [1.0] * len(parts)
    total = sum(shares)
    found = []
    for lines in zip(*([normalised(line) for line in part] for part in parts), strict=True):
        columns = zip(*lines, strict=True)
        mean = [sum(share * one for share, one in zip(shares, column, strict=True)) / total for column in columns]
        found.append(normalised(mean))
    return found


def _within(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and low <= value <= high
