"""A tiny picture encoder in place of timm's, for the types of transformers that read pictures with it (`timm_wrapper`).

timm is no dependency of this product, and asks for torchvision. What is tried is all that transformers does with the
states of such an encoder, which here are those of one random convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

_WIDTH = 64  # of all that siblings read pictures with
_PATCH = 8


class Encoder(nn.Module):
    """States of patches of 8 x 8 pixels.

    Args:
        tokens: states are [B, 1 + patches, 64], the first of a class token; else a map [B, 64, rows, columns].
    """

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH)
        self.tokens = tokens

    def forward_features(self, pixels: Tensor) -> Tensor:
        """See timm."""
        found: Tensor = self.patches(pixels).tanh()
        if not self.tokens:
            return found
        states = found.flatten(2).transpose(1, 2)
        return torch.cat([states.mean(1, keepdim=True), states], dim=1)

    def forward_head(self, states: Tensor) -> Tensor:
        """See timm; nothing of pictures is read from it."""
        return states.flatten(2).mean(-1)


def create_model(architecture: str, pretrained: bool = False, num_classes: int = 0, **options: Any) -> Encoder:
    """See timm. A width among the options is one of tokens."""
    return Encoder("embed_dim" in options)


@contextmanager
def stand_in_timm() -> Iterator[None]:
    """While this lasts transformers makes `Encoder` where it would have timm make one."""
    from transformers.models.timm_wrapper import modeling_timm_wrapper as wrapper

    stand_in = SimpleNamespace(create_model=create_model)
    with (
        mock.patch.object(wrapper, "timm", stand_in, create=True),
        mock.patch.object(wrapper, "requires_backends"),
    ):
        yield
