"""The vectors that stand for pictures in a batch: of the adapters' maps, or of a backbone that reads pictures."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dept.adapters.picture_map import mapped, patches
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.backbones.picture_encoder import encoded
from dept.batches.collate import Sight


def seen_by(backbone: Backbone, seen: Sight, tensors: Tensors | None) -> Tensor:
    """The vectors [V, d] of a batch's pictures: of the adapters' maps, where they have one, else the backbone's own."""
    if tensors is None or tensors.pictures is None:
        return _own(backbone, seen)
    mine, others = (~seen.own).nonzero()[:, 0], seen.own.nonzero()[:, 0]
    parts = []
    if len(mine):
        part = seen.part(mine)
        config, device = tensors.pictures, backbone.device
        features = encoded(part.pictures, config, device) if config.encoder else patches(part.pictures, config)
        parts.append(mapped(features.to(device), part, tensors))
    if len(others):
        parts.append(_own(backbone, seen.part(others)).float())
    return torch.cat(parts).index_select(0, torch.cat([mine, others]).argsort())


def _own(backbone: Backbone, seen: Sight) -> Tensor:
    found = backbone.see(seen.pictures)
    starts = torch.tensor([0, *itertools.accumulate(map(len, found))], device=backbone.device)
    return torch.cat(found).index_select(0, starts[seen.which] + seen.index)
