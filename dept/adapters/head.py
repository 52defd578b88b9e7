"""A linear head over pooled hidden states; `dept.readout` says how its answer and the words' become one."""

from __future__ import annotations

from dataclasses import dataclass

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

    def named(self) -> dict[str, Tensor]:
        """Its tensors by the names that files and stacks have for them."""
        return dict(zip((*TRAINED, *FIXED), (self.weight, self.bias, self.mean, self.spread), strict=True))

    @classmethod
    def of(cls, named: dict[str, Tensor]) -> Head:
        """The head whose tensors `named` gave."""
        return cls(*(named[name] for name in (*TRAINED, *FIXED)))
