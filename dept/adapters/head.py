"""A linear head over pooled hidden states, and how the scores of words and head become one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.errors import InputError

TRAINED = ("head_weight", "head_bias")
FIXED = ("head_mean", "head_spread")


@dataclass
class Head:
    """Label logits W @ ((x - mean) / spread) + bias of pooled hidden states x of the adapted pass.

    Attributes:
        weight: W [labels, F]; F is layers * d.
        bias: [labels].
        mean, spread: [F], of the features that it was started on; not trained, so that every feature has one size.

    Raises:
        InputError: shapes that do not fit together.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    spread: Tensor

    def __post_init__(self) -> None:
        labels, features = self.weight.shape
        if self.bias.shape != (labels,) or self.mean.shape != (features,) or self.spread.shape != (features,):
            raise InputError(
                f"adapter: a head's shapes do not fit: weight {list(self.weight.shape)} must be [labels, F], bias "
                f"{list(self.bias.shape)} [labels], mean {list(self.mean.shape)} and spread "
                f"{list(self.spread.shape)} [F]"
            )

    @classmethod
    def blank(cls, labels: int, features: int) -> Head:
        """A head that finds every label equally likely."""
        return cls(torch.zeros(labels, features), torch.zeros(labels), torch.zeros(features), torch.ones(features))

    def named(self) -> dict[str, Tensor]:
        """Its tensors by the names that files and stacks have for them."""
        return dict(zip((*TRAINED, *FIXED), (self.weight, self.bias, self.mean, self.spread), strict=True))

    @classmethod
    def of(cls, named: dict[str, Tensor]) -> Head:
        """The head whose tensors `named` gave."""
        return cls(*(named[name] for name in (*TRAINED, *FIXED)))


@dataclass(frozen=True)
class Readout:
    """How an adapter's scores become log-probabilities over its labels.

    Attributes:
        weight: of the head in the mean of the log-probabilities of words and head, 0 to 1.

    Raises:
        InputError: a weight out of its bounds.
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"adapter: the weight of a head must be from 0 to 1, got {self.weight!r}")

    def answer(self, words: Sequence[float], head: Sequence[float] | None) -> list[float]:
        """Log-probabilities (nats) over the labels, from the scores of the words and, where there is one, of a head."""
        found = normalised(words)
        if head is not None:
            pairs = zip(found, normalised(head), strict=True)
            found = normalised([(1 - self.weight) * w + self.weight * h for w, h in pairs])
        return found


def normalised(scores: Sequence[float]) -> list[float]:
    """Log-probabilities of sum 1 from log-scores; what is not finite stays as it is."""
    highest = max(scores)
    if not math.isfinite(highest):
        return list(scores)
    total = highest + math.log(sum(math.exp(score - highest) for score in scores))
    return [score - total for score in scores]
