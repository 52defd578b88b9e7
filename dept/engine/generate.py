"""Greedy generation for texts of many tasks and adapters in mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.batches.batching import CausalBatch, Row, Seq2SeqBatch, collate, first_row, micro_batches
from dept.engine import forward as stack
from dept.engine.evaluate import Progress
from dept.engine.memory import token_budget
from infra.errors import InputError

ANSWER_TOKENS = 32  # room for a free answer, in training and generation alike


@dataclass(frozen=True)
class Prompted:
    """A text to be continued under one of several adapters."""

    text: str
    adapter: int


def generate(
    backbone: Backbone,
    adapters: Sequence[Adapter],
    requests: Sequence[Prompted],
    max_new_tokens: int = 16,
    progress: Progress | None = None,
) -> list[str]:
    """Continue each text greedily until the end-of-sequence token or `max_new_tokens`.

    New tokens of a causal backbone take the rows of A that follow the text, as label words do in training, so text and
    new tokens together must fit s; a longer text is cut as `dept.batches.batching.encode` cuts it.

    Raises:
        InputError: adapters of different shapes or another backbone, or an s with no room for text.
    """
    if not requests:
        return []
    causal = backbone.family == "causal"
    s = adapters[0].config.s
    room = s - max_new_tokens if causal else s
    if room < 1:
        raise InputError(f"generate: s={s} leaves no room for text beside {max_new_tokens} new tokens")
    for adapter in adapters:
        adapter.check_fits(backbone.name, backbone.weights_id if "backbone_id" in adapter.metadata else "", backbone.d)
    items = []
    for request, ids in zip(requests, backbone.encode_texts([r.text for r in requests]), strict=True):
        if len(ids) > room:
            ids = ids[-room:] if causal else [*ids[: room - 1], ids[-1]]
        first = first_row(len(ids) + max_new_tokens, s, adapters[request.adapter].layout) if causal else 0
        items.append((request.adapter, Row(tuple(ids), ((backbone.end_id,),), -1, first)))
    written = generate_ids(backbone, stack.Tensors.of(adapters, backbone.device), items, max_new_tokens, None, progress)
    return [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


@torch.inference_mode()
def generate_ids(
    backbone: Backbone,
    tensors: stack.Tensors,
    items: Sequence[tuple[int, Row]],
    max_new_tokens: int,
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[list[int]]:
    """New token ids of (adapter index, row) items, in their order, without the end token. See `generate`."""
    prompts = stack.prefix(backbone, tensors)
    written: list[list[int]] = [[] for _ in items]
    for group in micro_batches(items, budget or token_budget(backbone), packing=False):  # each text will grow
        batch = collate(group, backbone)
        following = (
            _seq2seq(backbone, batch, tensors)
            if isinstance(batch, Seq2SeqBatch)
            else _causal(backbone, batch, tensors, prompts)
        )
        for pack, ids in zip(group, _greedy(following, backbone.end_id, max_new_tokens), strict=True):
            written[pack.indices[0]] = ids
        if progress is not None:
            progress(batch.tokens)
    return written


def _greedy(following: Callable[[Tensor | None], Tensor], end: int, most: int) -> list[list[int]]:
    """`following` takes the last tokens [R] (None at first) and gives the logits [R, vocab] of the next."""
    columns: list[Tensor] = []
    token, ended = None, None
    while len(columns) < most and not (ended is not None and bool(ended.all())):
        token = following(token).argmax(-1)
        ended = token == end if ended is None else ended | (token == end)
        columns.append(token.masked_fill(ended, end))
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def _causal(
    backbone: Backbone, batch: CausalBatch, tensors: stack.Tensors, prompts: stack.Prefix | None
) -> Callable[[Tensor | None], Tensor]:
    assert prompts is not None
    m = tensors.prompt.shape[1]
    every = torch.arange(len(batch.ids), device=batch.ids.device)
    last = batch.real.sum(1) - 1
    cache = prompts.cache(backbone, batch.slot)
    held = torch.cat([batch.real.new_ones(len(every), m), batch.real], dim=1)
    row = batch.rows[every, last]

    def following(token: Tensor | None) -> Tensor:
        nonlocal held, row
        if token is None:
            embeddings = stack.shift(backbone.embed(batch.ids), batch.rows, batch.slot, tensors)
            mask = stack.see_prompt(batch.allowed, m)
            return backbone.head(backbone.run_text(embeddings, m + batch.rows, mask, cache)[every, last])
        row = row + 1
        held = torch.cat([held, held.new_ones(len(every), 1)], dim=1)
        embeddings = stack.shift(backbone.embed(token[:, None]), row[:, None], batch.slot, tensors)
        return backbone.head(backbone.run_text(embeddings, m + row[:, None], held[:, None, None], cache)[:, 0])

    return following


def _seq2seq(backbone: Backbone, batch: Seq2SeqBatch, tensors: stack.Tensors) -> Callable[[Tensor | None], Tensor]:
    embeddings = stack.shift(backbone.embed(batch.ids), batch.rows, batch.slot, tensors)
    encoded, mask = stack.encode_text(backbone, batch, embeddings, tensors)
    inputs = backbone.decoder_inputs(batch.targets)[:, :1]  # the start token alone

    def following(token: Tensor | None) -> Tensor:
        nonlocal inputs
        if token is not None:
            inputs = torch.cat([inputs, token[:, None]], dim=1)
        return backbone.run_decoder(encoded, mask, inputs)[:, -1]

    return following
