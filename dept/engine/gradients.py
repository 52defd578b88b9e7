"""Gradients of a stack: every adapter's own mean loss, in as few passes of the backbone as the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.collate import collate
from dept.batches.pack import micro_batches
from dept.batches.tokenise import Row
from dept.engine import forward
from dept.engine.parallel import Local, Parallel


class Sums(NamedTuple):
    """Per adapter [N]: loss (nats per label token), real tokens, tokens with padding. Of this rank's part alone."""

    losses: Tensor
    tokens: Tensor
    padded: Tensor


def accumulate(
    backbone: Backbone,
    tensors: Tensors,
    items: Sequence[tuple[int, Row]],
    label_tokens: Tensor,
    budget: int,
    parallel: Parallel | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> Sums:
    """Add each adapter's gradient of its mean loss per label token to the leaves among `tensors`.

    The prompts of a causal backbone run once; all micro-batches add to the gradients of their keys and values, which go
    through the prompts' pass once, at the end.

    Args:
        items: (adapter_id, row).
        label_tokens: [N] label tokens of each adapter's rows.
        budget: padded tokens per micro-batch.
        parallel: how ranks share the micro-batches.
        on_tokens: called with the real tokens of each micro-batch.
    """
    losses, tokens, padded = torch.zeros(3, len(label_tokens), device=backbone.device)
    prompts = forward.prefix(backbone, tensors)
    leaves = prompts.leaves() if prompts is not None else None
    for group, weight in (parallel or Local()).share(micro_batches(items, budget, backbone.packs)):
        batch = collate(group, backbone)
        owner = batch.adapter_id[batch.candidate_row]
        loss = -weight * forward.log_probs(backbone, batch, tensors, leaves) / label_tokens[owner]
        loss.sum().backward()  # type: ignore[no-untyped-call]
        losses.index_add_(0, owner, loss.detach())
        tokens.index_add_(0, batch.adapter_id, weight * batch.real.sum(1))
        padded.index_add_(0, batch.adapter_id, torch.full_like(batch.adapter_id, batch.ids.shape[1]) * weight)
        if on_tokens is not None:
            on_tokens(batch.tokens)
    if prompts is not None and leaves is not None:
        prompts.backward(leaves)
    return Sums(losses, tokens, padded)
