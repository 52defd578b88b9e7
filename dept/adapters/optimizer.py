"""AdamW for a stack: a learning rate for each kind of tensor, a step count and a clipping norm per trial."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dept.config import Schedule

Rule = Literal["torch", "transformers"]
BETAS = (0.9, 0.999)


class AdamW:
    """Update P, A, B and what else is trained of N adapters at once, each as if it were alone.

    The default is torch.optim.AdamW's rule. "transformers" is the rule of the AdamW that the authors ran
    (transformers 4.31: bias correction folded into the step size, so eps weighs differently).

    Attributes:
        first, second: moments, one [N, ...] tensor per parameter, same shapes.
        steps: [N] updates made so far.
    """

    def __init__(self, parameters: dict[str, Tensor], rule: Rule = "torch", eps: float = 1e-8) -> None:
        self.rule, self.eps = rule, eps
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        any_parameter = next(iter(parameters.values()))
        # float64: 1 - 0.999**t has lost four digits in float32
        self.steps = any_parameter.new_zeros(len(any_parameter), dtype=torch.float64)

    @torch.no_grad()
    def step(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        rates: dict[str, Tensor],
        weight_decay: Tensor,
        clip: Tensor,
    ) -> Tensor:
        """Update `parameters` in place.

        Args:
            parameters, gradients: name -> [N, ...].
            rates: name -> [N] learning rates.
            weight_decay: [N], decoupled.
            clip: [N] largest joint gradient norm of an adapter; infinity leaves it alone.

        Returns:
            [N] gradient norms before clipping.
        """
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        factor = (clip / (norms + 1e-6)).clamp(max=1.0)
        self.steps += 1
        correction1, correction2 = ((1 - beta**self.steps).to(norms.dtype) for beta in BETAS)
        for name, parameter in parameters.items():
            per_trial = (-1,) + (1,) * (parameter.ndim - 1)
            gradient = gradients[name] * factor.view(per_trial)
            rate = rates[name]
            decay = (1 - rate * weight_decay).view(per_trial)
            first = self.first[name].lerp_(gradient, 1 - BETAS[0])
            second = self.second[name].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            if self.rule == "torch":
                denominator = (second.sqrt() / correction2.sqrt().view(per_trial)).add_(self.eps)
                parameter.mul_(decay).sub_((rate / correction1).view(per_trial) * first / denominator)
            else:
                denominator = second.sqrt().add_(self.eps)
                size = rate * correction2.sqrt() / correction1
                parameter.sub_(size.view(per_trial) * first / denominator).mul_(decay)
        return norms


def rate_factor(step: int, steps: int, warmup: float, schedule: Schedule = "linear") -> float:
    """Share of the peak rate at update `step` (0-based) of `steps`: linear warm-up, then `schedule` down to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    left = (steps - step) / max(1, steps - rising)
    if schedule == "constant":
        return 1.0
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
