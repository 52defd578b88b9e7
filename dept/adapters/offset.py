"""ADePT's token-wise offset: a small map of each token's embedding in place of rows by position.

    e' = e + ReLU(e @ W_in + b_in) @ W_out + b_out        W_in [d, h], b_in [h], W_out [h, d], b_out [d]

One map for all tokens, with the soft prompt P in front as in DePT: 2*d*h + h + d numbers beside P's m*d. W_in starts
kaiming-uniform (a=sqrt(5)) and the rest zero, so that it starts as nothing. Tang, Hu and Liu, ICLR 2025, arXiv
2501.03291, https://github.com/HungerPWAY/ADePT; their dropout of 0.1 before the ReLU is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from infra.errors import InputError

NAMES = ("offset_in", "offset_in_bias", "offset_out", "offset_out_bias")


@dataclass
class Offset:
    """The map of one adapter.

    Attributes:
        inside: W_in [d, h]. inside_bias: [h]. out: W_out [h, d]. out_bias: [d].

    Raises:
        InputError: shapes that do not fit together.
    """

    inside: Tensor
    inside_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def __post_init__(self) -> None:
        d, h = self.inside.shape
        found = [list(part.shape) for part in (self.inside_bias, self.out, self.out_bias)]
        if found != [[h], [h, d], [d]]:
            raise InputError(f"adapter: an offset's shapes do not fit: W_in [{d}, {h}] beside {found}")

    @classmethod
    def started(cls, d: int, h: int, seed: int) -> Offset:
        """The map that training starts from; drawn on the CPU, so that every device starts alike."""
        bound = 1 / math.sqrt(h)  # kaiming_uniform with a=sqrt(5) on [d, h]: fan_in = h
        inside = torch.empty(d, h).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
        return cls(inside, torch.zeros(h), torch.zeros(h, d), torch.zeros(d))

    def named(self) -> dict[str, Tensor]:
        """Its tensors by the names that files and stacks have for them."""
        return dict(zip(NAMES, (self.inside, self.inside_bias, self.out, self.out_bias), strict=True))

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> Offset | None:
        """The map whose tensors `named` gave; None where there are none."""
        return cls(*(named[name] for name in NAMES)) if NAMES[0] in named else None


class Stacked(Protocol):
    """The maps of a stack: W_in [N, d, h], b_in [N, h], W_out [N, h, d], b_out [N, d]."""

    offset_in: Tensor | None
    offset_in_bias: Tensor | None
    offset_out: Tensor | None
    offset_out_bias: Tensor | None


def offsets(embeddings: Tensor, adapter_id: Tensor, maps: Stacked) -> Tensor:
    """What is added to text embeddings [R, T, d] of rows of adapters [R]: float32 [R, T, d]."""
    inside, inside_bias, out, out_bias = (getattr(maps, name).index_select(0, adapter_id) for name in NAMES)
    hidden = functional.relu(torch.baddbmm(inside_bias[:, None], embeddings.to(inside.dtype), inside))
    return torch.baddbmm(out_bias[:, None], hidden, out)
