"""A plain, trainable copy of a backbone's model for baselines, and its forward pass without prompt or shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dept.backbones.backbone import Backbone
from dept.backbones.loading import load_model
from dept.baselines import lora
from dept.baselines.text_part import trained
from dept.batches.collate import Batch
from dept.batches.tokenise import Row
from dept.engine import forward
from infra.errors import InputError


class PlainCopy:
    """A plain copy of a backbone's model, which baselines train in turn; each starts from the backbone's very weights.

    Attributes:
        bare: the copy, without packed or compiled layers.
        turn: which baseline has the copy; it changes when one begins and when it ends.
    """

    def __init__(self, backbone: Backbone) -> None:
        if backbone.bits:
            raise InputError(f"baseline: {backbone.bits} weights are not trained here. Remedy: dtype bfloat16")
        model = load_model(str(backbone.folder or backbone.model.name_or_path), backbone.dtype)
        eyes = backbone.tokens.processor if backbone.reads_pictures else None
        self.bare = Backbone.of(model.to(backbone.device), backbone.tokenizer, backbone.name, backbone.folder, eyes)
        self.wrapped: Any = None
        self.turn = 0

    def begin(self, rank: int | None, seed: int) -> list[nn.Parameter]:
        """Make the copy, as `end` left it, ready for LoRA of `rank`, or of None for all weights; what is trained."""
        if rank is not None:
            self.wrapped = lora.attach(self.bare.model, rank, seed)
        else:
            for parameter in trained(self.bare.model):
                # bfloat16 would round small updates away; the adapters of dept and lora are float32 as well
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
                parameter.requires_grad_(True)
        return [parameter for parameter in self.bare.model.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def end(self, backbone: Backbone) -> None:
        """Give the copy the backbone's weights and layers again."""
        self.turn += 1
        if self.wrapped is not None:
            lora.detach(self.wrapped)
            self.wrapped = None
        originals = backbone.model.state_dict()
        for name, parameter in self.bare.model.named_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
            if parameter.dtype == originals[name].dtype:
                parameter.copy_(originals[name])
            else:
                parameter.data = originals[name].clone()


_copies: WeakKeyDictionary[Backbone, PlainCopy] = WeakKeyDictionary()


def plain_copy(backbone: Backbone) -> PlainCopy:
    """The copy of a backbone, loaded from its files on first use."""
    if backbone not in _copies:
        _copies[backbone] = PlainCopy(backbone)
    return _copies[backbone]


def release(backbone: Backbone) -> None:
    """Forget the copy that baselines of this backbone train; one that is not closed loses its weights with it."""
    if (copy := _copies.pop(backbone, None)) is not None:
        copy.turn += 1


def log_probs(bare: Backbone, batch: Batch, noise: Tensor | None = None, smoothing: Tensor | None = None) -> Tensor:
    """Log-probability of every candidate of a batch: float32 [C], summed over its tokens. No prompt, no shift.

    Args:
        noise, smoothing: in training, see `dept.engine.forward.scores`.
    """
    return forward.told(bare, batch, forward.passed(bare, batch, noise=noise), smoothing)


def items_of(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """What `micro_batches` takes; rows of A do not exist here, so a batch's `rows` are the positions in each text."""
    return [(0, replace(row, first=0)) for row in rows]
