"""Many adapters as one: the only place where E + scale * A @ B and [P; text] are formed.

A stack holds P [N, m, d], A [N, s, r], B [N, r, d]; each row of a batch names its adapter. Paper: section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.optimizer import AdamW
from dept.batches.batching import IGNORE, CausalBatch, Seq2SeqBatch, first_row
from infra.errors import InputError

if TYPE_CHECKING:
    from dept.adapters.adapter import Adapter
    from dept.backbones.backbone import Backbone

@dataclass
class Prefix:
    """What the prompts of a stack leave in a causal backbone: per layer keys and values [N, heads, m, width]."""

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor

    def cache(self, backbone: Backbone, slot: Tensor) -> Any:
        """A cache that holds each row's own prompt; `slot` [R] names it."""
        keys, values = ([t.index_select(0, slot) for t in part] for part in (self.keys, self.values))
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


def shift(embeddings: Tensor, rows: Tensor, slot: Tensor, tensors: Tensors) -> Tensor:
    """E + scale * (A @ B)[row] for text embeddings [R, T, d], rows of A [R, T], adapters [R]."""
    n, s, r = tensors.a.shape
    if not r:
        return embeddings
    # An embedding lookup, since its backward is the same bits every time; plain indexing's is not on CUDA.
    picked = functional.embedding(slot[:, None] * s + rows, tensors.a.reshape(n * s, r))
    delta = torch.bmm(picked * tensors.scale[slot][:, None, None], tensors.b.index_select(0, slot))
    return embeddings + delta.to(embeddings.dtype)


def prefix(backbone: Backbone, tensors: Tensors) -> Prefix | None:
    """Run the prompts of all adapters once. None for encoder-decoder backbones, whose encoder sees both ways."""
    if backbone.family != "causal":
        return None
    return Prefix(*backbone.run_prefix(tensors.prompt.to(backbone.dtype)))


def log_probs(
    backbone: Backbone, batch: CausalBatch | Seq2SeqBatch, tensors: Tensors, prompts: Prefix | None
) -> Tensor:
    """Log-probability of every branch of a batch: float32 [C], summed over the branch's tokens.

    Args:
        prompts: what `prefix` gave for these tensors.
    """
    embeddings = shift(backbone.embed(batch.ids), batch.rows, batch.slot, tensors)
    if isinstance(batch, Seq2SeqBatch):
        return _sum_target_log_probs(_seq2seq_logits(backbone, batch, embeddings, tensors), batch.targets)
    assert prompts is not None
    hidden = _run_text(backbone, embeddings, batch.rows, batch.allowed, batch.slot, tensors.prompt.shape[1], prompts)
    logits = backbone.head(hidden.flatten(0, 1).index_select(0, batch.query)).float()
    picked = logits[batch.pick_query, batch.pick_token] - logits.logsumexp(-1)[batch.pick_query]
    return picked.new_zeros(len(batch.branch_row)).index_add(0, batch.pick_branch, picked)


def _run_text(
    backbone: Backbone, embeddings: Tensor, rows: Tensor, allowed: Tensor, slot: Tensor, m: int, prompts: Prefix
) -> Tensor:
    return backbone.run_text(embeddings, m + rows, see_prompt(allowed, m), prompts.cache(backbone, slot))


def see_prompt(allowed: Tensor, m: int) -> Tensor:
    """Attention mask [R, 1, T, m + T]: text tokens see all m prompt tokens and `allowed` [R, T, T] of the text."""
    return torch.cat([allowed.new_ones(*allowed.shape[:2], m), allowed], dim=2)[:, None]


def _seq2seq_logits(backbone: Backbone, batch: Seq2SeqBatch, embeddings: Tensor, tensors: Tensors) -> Tensor:
    encoded, mask = encode_text(backbone, batch, embeddings, tensors)
    inputs = backbone.decoder_inputs(batch.targets)
    return backbone.run_decoder(
        encoded.index_select(0, batch.branch_row), mask.index_select(0, batch.branch_row), inputs
    )


def encode_text(backbone: Backbone, batch: Seq2SeqBatch, embeddings: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Encoder states [R, m + T, d] of [P; text] and their mask [R, m + T]."""
    prompts = tensors.prompt.index_select(0, batch.slot).to(embeddings.dtype)
    mask = torch.cat([batch.real.new_ones(len(batch.real), prompts.shape[1]), batch.real], dim=1)
    return backbone.run_encoder(torch.cat([prompts, embeddings], dim=1), mask), mask


def _sum_target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    counted = targets != IGNORE
    logits = logits.float()
    picked = logits.gather(-1, targets.masked_fill(~counted, 0)[..., None])[..., 0] - logits.logsumexp(-1)
    return (picked * counted).sum(-1)


def forward_one(
    backbone: Backbone, adapter: Adapter, ids: Tensor, real: Tensor, labels: Tensor | None, all_positions: bool
) -> tuple[Tensor | None, Tensor]:
    """One adapter, one padded or unpadded batch: the authors' loss (mean over label tokens) and logits.

    Args:
        ids: [R, T]; padding may lie on either side, `real` [R, T] marks what is text.
        labels: causal [R, T] aligned with ids, encoder-decoder [R, L]; -100 is not counted.
        all_positions: causal: logits of the prompt and every text position, [R, m+T, V]; else of the label positions
            alone, [labels, V].

    Raises:
        InputError: a text longer than the adapter's s, an empty text, or labels missing for an encoder-decoder.
    """
    tensors = Tensors.of([adapter], backbone.device)
    m, s = tensors.prompt.shape[1], tensors.a.shape[1]
    lengths = real.sum(1)
    if lengths.max() > s or lengths.min() < 1:
        raise InputError(f"backbone: texts of {int(lengths.min())} to {int(lengths.max())} tokens; 1 to s={s} fit")
    start = real.int().argmax(1, keepdim=True)
    index = torch.arange(ids.shape[1], device=ids.device)[None] - start
    slot = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    if backbone.family != "causal":
        if labels is None:
            raise InputError("backbone: an encoder-decoder needs labels [batch, label length]")
        order = (torch.arange(ids.shape[1], device=ids.device)[None] + start) % ids.shape[1]
        ids, real = ids.gather(1, order), real.gather(1, order)
        rows = torch.arange(ids.shape[1], device=ids.device).clamp(max=s - 1).expand_as(ids)
        every = torch.arange(len(ids), device=ids.device)
        batch = Seq2SeqBatch(ids, real, rows, slot, every, labels)
        logits = _seq2seq_logits(backbone, batch, shift(backbone.embed(ids), rows, slot, tensors), tensors)
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE), logits
    offset = torch.stack([torch.as_tensor(first_row(int(n), s, adapter.layout)) for n in lengths]).to(ids.device)
    rows = (index + offset[:, None]).clamp(0, s - 1)
    prompts = prefix(backbone, tensors)
    assert prompts is not None
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    hidden = _run_text(
        backbone, shift(backbone.embed(ids), rows, slot, tensors), rows, causal & real[:, None, :], slot, m, prompts
    )
    hidden = torch.cat([prompts.hidden.expand(len(ids), -1, -1), hidden], dim=1)
    if labels is None:
        return None, backbone.head(hidden)
    following = functional.pad(labels, (m - 1, 1), value=IGNORE) if m else labels
    counted = following != IGNORE
    picked = backbone.head(hidden[counted]).float()
    loss = functional.cross_entropy(picked, following[counted])
    return loss, backbone.head(hidden) if all_positions else picked
