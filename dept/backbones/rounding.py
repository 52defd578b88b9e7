"""Whether two computations of the same numbers differ by no more than rounding.

In float32 an absolute bound says so. In shorter types none holds for all models: how far rounding carries hangs on
depth and weights. There the model itself is the measure: what it gives for embeddings whose numbers are each off by one
rounding (`shaken`) differs from what it gives for the embeddings themselves as two right computations do, since other
numbers are rounded from the first layer on. A wrong mask, scale or position differs by many times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DRAWS = 3  # of shaken embeddings
_SHORT = (torch.bfloat16, torch.float16)
_EXACT = 1e-4  # float32: largest error, of a spread of 0.2 at least
_ALIKE = 0.02  # and of a whole model's logits, whose sums may be long, in their spread
# Shorter types: mean error, in that of shaken embeddings. Of about 20 types right ways have 0 to 1.6, a mask or
# position that is off by one 7 and more.
_TIMES = 3.0
_UNSHAKEN = 0.1  # and in their spread, where nothing has been shaken


def is_short(model: Any) -> bool:
    """Whether a model's numbers are shorter than float32."""
    return model.get_input_embeddings().weight.dtype in _SHORT


def shaken(embeddings: Tensor, draw: int) -> Tensor:
    """The same embeddings, each number off by up to one rounding of its type."""
    noise = torch.rand(embeddings.shape, generator=torch.Generator().manual_seed(draw)) * 2 - 1
    off = 1 + torch.finfo(embeddings.dtype).eps * noise.to(embeddings.device)
    return (embeddings.detach().float() * off).to(embeddings.dtype)


def near(ours: Tensor, theirs: Tensor, shakes: Sequence[Tensor] = ()) -> bool:
    """Whether numbers are the same up to rounding.

    Args:
        shakes: of shorter types: by how much the model's own numbers differ for shaken embeddings; none: float32, or
            what cannot be shaken.
    """
    return _within(ours, theirs, shakes, _EXACT * max(1.0, 5 * _spread(theirs)))


def alike(ours: Tensor, theirs: Tensor, shakes: Sequence[Tensor] = ()) -> bool:
    """As `near`, of a whole model's logits, however long its sums."""
    return _within(ours, theirs, shakes, _ALIKE * _spread(theirs))


def all_near(ours: Sequence[Tensor], theirs: Sequence[Tensor], shakes: Sequence[Sequence[Tensor]]) -> bool:
    """`near`, of several tensors; shakes: for each draw as many."""
    each = zip(*shakes, strict=True) if shakes else [()] * len(theirs)
    return all(near(one, own, more) for one, own, more in zip(ours, theirs, each, strict=True))


def _within(ours: Tensor, theirs: Tensor, shakes: Sequence[Tensor], most: float) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not shakes and theirs.dtype in _SHORT:
        return _mean(ours - theirs) <= _UNSHAKEN * _spread(theirs)
    if not shakes:
        return float((ours.float() - theirs.float()).abs().max()) <= most
    return _mean(ours - theirs) <= _TIMES * max(_floor(theirs), *map(_mean, shakes))


def _mean(off: Tensor) -> float:
    return float(off.float().abs().mean())


def _floor(numbers: Tensor) -> float:
    """One rounding of a number of the usual size: of numbers that shaken embeddings do not reach."""
    return torch.finfo(torch.bfloat16).eps / 4 * _spread(numbers)


def _spread(numbers: Tensor) -> float:
    return max(1e-3, float(numbers.float().std()))
