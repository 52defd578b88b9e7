"""Many adapters in one forward pass: each row of a batch names its adapter. Paper: section 2.3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dept.adapters.head import FIXED, TRAINED
from dept.adapters.stack import Tensors, shift
from dept.backbones.backbone import (
    IGNORE,
    Backbone,
    CausalBackbone,
    EncoderBackbone,
    EncoderDecoderBackbone,
    SeeingBackbone,
)
from dept.backbones.masks import behind_prompt, see_prompt
from dept.backbones.vision import Scene
from dept.batches.collate import Batch, CausalBatch, PickedBatch, Seq2SeqBatch
from dept.batches.tokenise import Row
from dept.engine.seen import seen_by


@dataclass
class Prefix:
    """What the prompts of a stack leave in a causal backbone: per layer keys and values [N, heads, m, width]."""

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor

    def cache(self, backbone: CausalBackbone, adapter_id: Tensor) -> Any:
        """A cache that holds each row's own prompt; `adapter_id` [R] names it."""
        keys, values = ([t.index_select(0, adapter_id) for t in part] for part in (self.keys, self.values))
        return backbone.cache_of(keys, values)

    def leaves(self) -> Prefix:
        """Detached copies that collect the gradients of all micro-batches of a step."""
        return Prefix(
            [k.detach().requires_grad_() for k in self.keys],
            [v.detach().requires_grad_() for v in self.values],
            self.hidden.detach(),
        )

    def backward(self, leaves: Prefix) -> None:
        """Send the gradients that `leaves` collected through the prompts' forward pass, once."""
        pairs = [
            (t, leaf.grad)
            for t, leaf in zip(self.keys + self.values, leaves.keys + leaves.values, strict=True)
            if leaf.grad is not None and t.requires_grad
        ]
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])


def prefix(backbone: Backbone, tensors: Tensors) -> Prefix | None:
    """Run the prompts of all adapters once. None where they cannot run alone, see `Backbone.run_prefix`."""
    found = backbone.run_prefix(tensors.prompt.to(backbone.dtype))
    return None if found is None else Prefix(*found)


def check_lengths(backbone: Backbone, tensors: Tensors | None, items: Sequence[tuple[int, Row]], more: int = 0) -> None:
    """Refuse (adapter id, row) items that the backbone has no positions for behind its prompts.

    Args:
        tensors: of the adapters, whose prompts stand in front; none: the bare backbone.
        more: tokens that will be written behind each.

    Raises:
        InputError: so it is.
    """
    if not items:
        return
    answer = max(max(map(len, row.candidates)) for _, row in items)
    if backbone.family == "causal":
        longest = max(row.first + len(row.source) + max(map(len, row.candidates)) - 1 for _, row in items) + more
    else:
        longest = max(len(row.source) for _, row in items)
        if backbone.family == "seq2seq":
            backbone.check_answers(answer + more)
    backbone.check_room(0 if tensors is None else tensors.prompt.shape[1], longest)


class Scores(NamedTuple):
    """words [C]: log-probability of every candidate, float32; head [C]: logit of its label, or None without heads."""

    words: Tensor
    head: Tensor | None


class Passed(NamedTuple):
    """last: [R, T, d], of an encoder-decoder [R, m + T, d] with mask [R, m + T]; states: [R, T, d], by depth."""

    last: Tensor
    mask: Tensor
    states: list[Tensor]


def passed(
    backbone: Backbone,
    batch: Batch,
    tensors: Tensors | None = None,
    prompts: Prefix | None = None,
    depths: Sequence[float] = (),
    noise: Tensor | None = None,
) -> Passed:
    """Run the texts of a batch through the backbone (of an encoder-decoder: through its encoder).

    Args:
        tensors: of the adapters; none: the bare backbone, with nothing in front and nothing added.
        prompts: what `prefix` gave for these tensors.
        depths: share of the layers whose states are wanted, 1 the last.
        noise: added to the embeddings [R, T, d], in training.
    """
    embeddings = embedded(backbone, batch, tensors, noise)
    if not isinstance(batch, CausalBatch):
        front = embeddings[:, :0] if tensors is None else tensors.prompt.index_select(0, batch.adapter_id)
        if isinstance(backbone, EncoderBackbone):
            last, states = backbone.encode_text(embeddings, batch.real, front, depths)
            return Passed(last, batch.real, states)
        assert isinstance(backbone, EncoderDecoderBackbone)
        return Passed(*backbone.encode_text(embeddings, batch.real, front, depths))
    assert isinstance(backbone, CausalBackbone)
    scene = scene_of(backbone, batch)
    if not backbone.way.fast:
        front = in_front(backbone, batch, embeddings, tensors)
        last, states = backbone.run_alone(embeddings, batch.real, batch.allowed, front, depths, scene)
        return Passed(last, batch.real, states)
    m = 0 if tensors is None else tensors.prompt.shape[1]
    cache = None if prompts is None else prompts.cache(backbone, batch.adapter_id)
    seen, positions = see_prompt(batch.allowed, m), m + batch.positions
    around = () if scene is None else scene.around(positions)
    last, states = backbone.run_layers(embeddings, positions, seen, cache, behind_prompt(positions, m), depths, *around)
    return Passed(last, batch.real, states)


def scene_of(backbone: CausalBackbone, batch: CausalBatch) -> Scene | None:
    """Where the pictures of a batch stand that the backbone sees itself; None where that makes no difference."""
    if not isinstance(backbone, SeeingBackbone):
        return None
    answers = batch.real & (batch.text == len(batch.owner))
    if batch.seen is None:
        return backbone.scene(batch.ids, answers)
    seen = batch.seen
    return backbone.scene(batch.ids, answers & ~seen.blank, seen.blocks, seen.pictures, seen.vectors)


def embedded(backbone: Backbone, batch: Batch, tensors: Tensors | None = None, noise: Tensor | None = None) -> Tensor:
    """What enters the first layer behind the prompts [R, T, d]: embeddings with A @ B, vectors where pictures stand.

    Args:
        tensors, noise: see `passed`.

    Raises:
        InputError: a picture that is gone, has changed, or cannot be read.
    """
    embeddings = disturbed(backbone.embed(batch.ids), noise)
    if batch.seen is None:
        return embeddings if tensors is None else shift(embeddings, batch.rows, batch.adapter_id, tensors)
    flat = embeddings.flatten(0, 1).index_copy(
        0, batch.seen.at, seen_by(backbone, batch.seen, tensors).to(embeddings.dtype)
    )
    embeddings = flat.view_as(embeddings)
    if tensors is None:
        return embeddings
    return shift(embeddings, batch.rows, batch.adapter_id, tensors, batch.seen.blank)


def in_front(backbone: CausalBackbone, batch: CausalBatch, embeddings: Tensor, tensors: Tensors | None) -> Tensor:
    """The prompt [R, m, d] of each row of a batch that is computed row by row; m is 0 without adapters.

    Raises:
        InputError: a layout that leaves a gap between prompt and text.
    """
    if tensors is None:
        return embeddings[:, :0]
    if bool(batch.positions[:, 0].any()):  # a text begins at its first column
        backbone.check_layout("paper")
    return tensors.prompt.index_select(0, batch.adapter_id)


def scores(
    backbone: Backbone,
    batch: Batch,
    tensors: Tensors,
    prompts: Prefix | None,
    noise: Tensor | None = None,
    smoothing: Tensor | None = None,
) -> Scores:
    """What words and heads give every candidate of a batch, in one pass of the backbone.

    Args:
        prompts: what `prefix` gave for these tensors.
        noise: added to the embeddings [R, T, d], in training.
        smoothing: see `told`, in training.
    """
    found = passed(backbone, batch, tensors, prompts, tensors.layers, noise)
    words, states = told(backbone, batch, found, smoothing, tensors), found.states
    return Scores(words, head_logits(batch, pooled(batch, states), tensors) if states else None)


def told(
    backbone: Backbone, batch: Batch, found: Passed, smoothing: Tensor | None = None, tensors: Tensors | None = None
) -> Tensor:
    """Log-probability of every candidate, float32 [C], from what `passed` found; 0 where heads alone tell labels.

    Args:
        smoothing: of each candidate [C], in training: what the mean over the vocabulary counts beside each token.
        tensors: of the adapters; none: the bare backbone.

    Raises:
        InputError: words are wanted of a backbone that tells none.
    """
    if isinstance(batch, Seq2SeqBatch):
        assert isinstance(backbone, EncoderDecoderBackbone)
        return decoded(backbone, batch, found.last, found.mask, smoothing)
    assert isinstance(batch, PickedBatch)
    assert isinstance(backbone, (CausalBackbone, EncoderBackbone))
    if isinstance(backbone, EncoderBackbone):
        backbone.check_words(tensors)
        if not (backbone.fills_in and len(batch.query)):
            return found.last.new_zeros(len(batch.candidate_row), dtype=torch.float32)
    return picked(backbone, batch, found.last, smoothing)


def pooled(batch: Batch, states: Sequence[Tensor]) -> Tensor:
    """Mean hidden states of each text: float32 [B, layers * d] from [R, T, d] of each layer, answers left out."""
    each, texts = batch.text.flatten(), len(batch.owner)
    count = torch.bincount(each, minlength=texts + 1)[:texts, None]
    sums = [
        torch.zeros(texts + 1, state.shape[-1], device=state.device).index_add(0, each, state.flatten(0, 1).float())
        for state in states
    ]
    return torch.cat([part[:texts] / count for part in sums], dim=1)


def head_logits(batch: Batch, features: Tensor, tensors: Tensors) -> Tensor:
    """The head's logit of each candidate's label, [C], from features [B, F]."""
    weight, bias, mean, spread = (getattr(tensors, name) for name in (*TRAINED, *FIXED))
    own = (features - mean.index_select(0, batch.owner)) / spread.index_select(0, batch.owner)
    most = batch.table.shape[1]
    logits = torch.baddbmm(
        bias.index_select(0, batch.owner)[:, :most, None],
        weight.index_select(0, batch.owner)[:, :most],
        own[:, :, None],
    )[..., 0]
    found: Tensor = logits[batch.table < len(batch.candidate_row)]
    return found


def by_text(batch: Batch, flat: Tensor) -> Tensor:
    """Scores [C] of candidates as a table [B, most candidates of a text], -inf where a text has fewer."""
    return torch.cat([flat, flat.new_full((1,), -math.inf)])[batch.table]


def disturbed(embeddings: Tensor, noise: Tensor | None) -> Tensor:
    """Embeddings [R, T, d] with noise of that shape."""
    return embeddings if noise is None else embeddings + noise.to(embeddings.dtype)


def picked(
    backbone: CausalBackbone | EncoderBackbone, batch: PickedBatch, hidden: Tensor, smoothing: Tensor | None = None
) -> Tensor:
    """Log-probability of every candidate, float32 [C], from last hidden states [R, T, d].

    Args:
        smoothing: see `told`.
    """
    logits = backbone.head(hidden.flatten(0, 1).index_select(0, batch.query)).float()
    total = logits.logsumexp(-1)
    found = logits[batch.pick_query, batch.pick_token] - total[batch.pick_query]
    if smoothing is not None:
        found = found.lerp((logits.mean(-1) - total)[batch.pick_query], smoothing[batch.pick_candidate])
    return found.new_zeros(len(batch.candidate_row)).index_add(0, batch.pick_candidate, found)


def decoded(
    backbone: EncoderDecoderBackbone,
    batch: Seq2SeqBatch,
    encoded: Tensor,
    mask: Tensor,
    smoothing: Tensor | None = None,
) -> Tensor:
    """Log-probability of every candidate, float32 [C], from encoder states [R, m + T, d] and their mask.

    Args:
        smoothing: see `told`.
    """
    logits = backbone.run_decoder(
        encoded.index_select(0, batch.candidate_row),
        mask.index_select(0, batch.candidate_row),
        backbone.decoder_inputs(batch.targets),
    ).float()
    counted = batch.targets != IGNORE
    total = logits.logsumexp(-1)
    found = logits.gather(-1, batch.targets.masked_fill(~counted, 0)[..., None])[..., 0] - total
    if smoothing is not None:
        found = found.lerp(logits.mean(-1) - total, smoothing[:, None])
    return (found * counted).sum(-1)
