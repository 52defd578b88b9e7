"""The mean of a baseline's weights over its steps, as stacks have theirs (`dept.adapters.stack.Training`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Mean:
    """sum(average^(t - i) * weights of step i) / sum(average^(t - i)) over the steps i = 1 ... t so far.

    Args:
        parameters: what is trained; kept once more, and once more while the mean is in place, where `average` is not 0.
        average: see `dept.config.TrainConfig.average`.
    """

    def __init__(self, parameters: Sequence[Tensor], average: float) -> None:
        self.parameters, self.average, self.steps = parameters, average, 0
        self.mean = [parameter.detach().clone() for parameter in parameters] if average else []

    @torch.no_grad()
    def stepped(self) -> None:
        """Take a step's weights in."""
        self.steps += 1
        a = self.average
        share = (1 - a) / (1 - a**self.steps) if a < 1 else 1 / self.steps
        for mean, parameter in zip(self.mean, self.parameters, strict=bool(self.mean)):
            mean.lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters are the mean meanwhile, which is what is validated and kept."""
        own = [parameter.detach().clone() for parameter in self.parameters] if self.mean else []
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=bool(values)):
            parameter.copy_(value)
