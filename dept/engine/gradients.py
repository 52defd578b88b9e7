"""Gradients of a stack: every adapter's own mean loss, in as few passes of the backbone as the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.collate import Batch, collate
from dept.batches.pack import micro_batches
from dept.batches.tokenise import Row
from dept.engine import forward
from dept.engine.disturb import Disturbance
from dept.engine.parallel import Local, Parallel


class Sums(NamedTuple):
    """Per adapter [N]: loss (nats, see `weights_of`), real tokens, tokens with padding. Of this rank's part alone."""

    losses: Tensor
    tokens: Tensor
    padded: Tensor


def weights_of(rows: Sequence[Row]) -> list[float]:
    """What each row's loss counts in its adapter's mean over a step: one row as much as another.

    A row of several words has one loss, of choosing among them; rows of one answer are a mean over their tokens, where
    there are no others in the step, and else each a mean over its own.
    """
    tokens = [len(row.candidates[0]) if len(row.candidates) == 1 else 0 for row in rows]
    if all(tokens):
        return [1 / sum(tokens)] * len(rows)
    return [1 / (len(rows) * max(1, count)) for count in tokens]


def accumulate(
    backbone: Backbone,
    tensors: Tensors,
    items: Sequence[tuple[int, Row]],
    weights: Sequence[float],
    budget: int,
    parallel: Parallel | None = None,
    on_tokens: Callable[[int], None] | None = None,
    disturbance: Disturbance | None = None,
) -> Sums:
    """Add each adapter's gradient of its mean loss to the leaves among `tensors`.

    The loss of a row of one answer is that of its tokens among the whole vocabulary (the paper's way); of a row of
    several words that of the right one among them, or, where it has soft labels, its cross-entropy with these (Hinton
    et al. 2015, arXiv 1503.02531, section 2, temperature 1); a head's is added to it, or stands alone where the words
    count nothing.

    The prompts of a causal backbone run once; all micro-batches add to the gradients of their keys and values, which go
    through the prompts' pass once, at the end.

    Args:
        items: (adapter_id, row).
        weights: of each item's loss, see `weights_of`.
        budget: padded tokens per micro-batch.
        parallel: how ranks share the micro-batches.
        on_tokens: called with the real tokens of each micro-batch.
        disturbance: against overfitting; default none.
    """
    disturbance = disturbance or Disturbance()
    smoothing = torch.tensor(disturbance.smoothing, device=backbone.device) if any(disturbance.smoothing) else None
    losses, tokens, padded = torch.zeros(3, len(tensors.scale), device=backbone.device)
    by_words = [readout is None or readout.weight < 1 for readout in tensors.readouts]
    forward.check_lengths(backbone, tensors, items)
    prompts = forward.prefix(backbone, tensors)
    leaves = prompts.leaves() if prompts is not None else None
    for group, weight in (parallel or Local()).share(micro_batches(items, budget, backbone.packs)):
        batch = collate(group, backbone)
        noise, even = disturbance.on(group, batch, backbone.d), None if smoothing is None else smoothing[batch.owner]
        found = forward.scores(backbone, batch, tensors, leaves, noise, in_vocabulary(batch, even))
        loss = of_words(batch, found.words, even)
        if found.head is not None:
            counted = torch.tensor(by_words, device=backbone.device)[batch.owner]
            loss = torch.where(counted, loss, 0.0) + _among(batch, found.head, even)
        share = torch.tensor([weights[index] for pack in group for index in pack.indices], device=backbone.device)
        loss = weight * share * loss
        loss.sum().backward()
        losses.index_add_(0, batch.owner, loss.detach())
        tokens.index_add_(0, batch.adapter_id, weight * batch.real.sum(1))
        padded.index_add_(0, batch.adapter_id, torch.full_like(batch.adapter_id, batch.ids.shape[1]) * weight)
        if on_tokens is not None:
            on_tokens(batch.tokens)
    if prompts is not None and leaves is not None:
        prompts.backward(leaves)
    return Sums(losses, tokens, padded)


def in_vocabulary(batch: Batch, smoothing: Tensor | None) -> Tensor | None:
    """The smoothing of each candidate among the vocabulary, [C], from that of each text [B]: where there is but one."""
    if smoothing is None:
        return None
    single = (batch.table < len(batch.candidate_row)).sum(1) == 1
    return smoothing.new_zeros(len(batch.candidate_row)).index_add(0, batch.table[single, 0], smoothing[single])


def of_words(batch: Batch, words: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """Loss of each text [B]: among its words where there are several, else of its answer in the vocabulary.

    Args:
        words: what `forward.scores` gave with the smoothing of `in_vocabulary`.
        smoothing: [B], the share of the target that all words of a text have alike.
    """
    if batch.table.shape[1] == 1:
        return -words
    single = (batch.table < len(words)).sum(1) == 1
    table = forward.by_text(batch, words)
    return torch.where(single, -table[:, 0], _among(batch, words, smoothing))


def _among(batch: Batch, flat: Tensor, smoothing: Tensor | None) -> Tensor:
    """Cross-entropy (nats) of each text [B] of the right one among its candidates, or of its soft labels."""
    table = forward.by_text(batch, flat)
    found = functional.cross_entropy(table, batch.gold, reduction="none")
    if smoothing is None and batch.soft is None:
        return found
    own = batch.table < len(flat)  # torch's own smoothing would count the places behind a text's words
    logs = table.log_softmax(1).masked_fill(~own, 0)
    if batch.soft is not None:
        found = torch.where(batch.soft.any(1), -(batch.soft * logs).sum(1), found)
    return found if smoothing is None else found.lerp(-logs.sum(1) / own.sum(1), smoothing)
