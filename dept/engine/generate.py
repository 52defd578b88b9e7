"""Greedy generation for texts of many tasks and adapters in mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors, shift
from dept.backbones.backbone import Backbone, CausalBackbone, EncoderDecoderBackbone
from dept.backbones.masks import behind_prompt, see_prompt
from dept.batches.collate import CausalBatch, Seq2SeqBatch, collate
from dept.batches.pack import micro_batches
from dept.batches.tokenise import ANSWER_TOKENS, Row, encode_open
from dept.engine import forward
from dept.engine.evaluate import Progress, reading_of
from dept.engine.memory import token_budget, within_memory
from tasks.pictures import Picture

__all__ = ["ANSWER_TOKENS", "Prompted", "generate", "generate_ids"]


@dataclass(frozen=True)
class Prompted:
    """A text to be continued under one of several adapters, behind a picture where there is one."""

    text: str
    adapter: int
    picture: Picture | None = field(default=None, repr=False)


def generate(
    backbone: Backbone,
    adapters: Sequence[Adapter],
    requests: Sequence[Prompted],
    max_new_tokens: int = ANSWER_TOKENS,
    progress: Progress | None = None,
) -> list[str]:
    """Continue each text greedily until an end-of-sequence token or `max_new_tokens`.

    New tokens of a causal backbone take the rows of A that follow the text, as label words do in training, so text and
    new tokens together must fit s; a longer text is cut as in training.

    Args:
        max_new_tokens: as many as answers had room for in training, else texts lie on other rows of A than there.
        progress: called with the real tokens of each finished micro-batch.

    Raises:
        InputError: adapters of different shapes or another backbone, or an s with no room for text.

    Example:
        >>> backbone, adapter = Backbone.from_pretrained("smollm2-135m"), Adapter.load("mine")  # doctest: +SKIP
        >>> generate(backbone, [adapter], [Prompted("A headline for: it rained.", 0)])  # doctest: +SKIP
        [' Rain again']
    """
    if not requests:
        return []
    items: list[tuple[int, Row] | None] = [None] * len(requests)
    for which, adapter in enumerate(adapters):
        backbone.check_adapter(adapter)
        members = [i for i, request in enumerate(requests) if request.adapter == which]
        texts = [requests[i].text for i in members]
        pictures = [requests[i].picture for i in members]
        made = encode_open(backbone.tokens, texts, adapter.config, max_new_tokens, pictures, **reading_of(adapter))
        for index, row in zip(members, made, strict=True):
            items[index] = which, row
    tensors = Tensors.of(adapters, backbone.device)
    written = generate_ids(backbone, tensors, [item for item in items if item], max_new_tokens, progress)
    return [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


@torch.inference_mode()
def generate_ids(
    backbone: Backbone,
    tensors: Tensors,
    items: Sequence[tuple[int, Row]],
    max_new_tokens: int,
    progress: Progress | None = None,
) -> list[list[int]]:
    """New token ids of (adapter id, row) items, in their order, without the end token. See `generate`."""
    if not items:
        return []
    forward.check_lengths(backbone, tensors, items, max_new_tokens - 1)
    prompts = forward.prefix(backbone, tensors)
    written: list[list[int] | None] = [None] * len(items)
    own = (row.candidates[0][-1] for _, row in items)  # what ends an open row (`encode_open`): a chat template's own
    ends = tuple(dict.fromkeys((*backbone.tokens.end_ids, *own)))

    def attempt(budget: int) -> None:
        left = [i for i, found in enumerate(written) if found is None]
        for group in micro_batches([items[i] for i in left], budget, packing=False):  # each text will grow
            batch = collate(group, backbone)
            if isinstance(batch, Seq2SeqBatch):
                assert isinstance(backbone, EncoderDecoderBackbone)
                following = _seq2seq(backbone, batch, tensors)
            else:
                assert isinstance(backbone, CausalBackbone)
                assert isinstance(batch, CausalBatch)
                following = _causal(backbone, batch, tensors, prompts)
            for pack, ids in zip(group, _greedy(following, ends, max_new_tokens), strict=True):
                written[left[pack.indices[0]]] = ids
            if progress is not None:
                progress(batch.tokens)

    within_memory(backbone, attempt, token_budget(backbone), max(row.length for _, row in items))
    return [ids or [] for ids in written]


def _greedy(following: Callable[[Tensor | None], Tensor], ends: Sequence[int], most: int) -> list[list[int]]:
    """`following` takes the last tokens [R] (None at first) and gives the logits [R, vocab] of the next."""
    columns: list[Tensor] = []
    token, ended = None, None
    while len(columns) < most and not (ended is not None and bool(ended.all())):
        token = following(token).argmax(-1)
        now = torch.isin(token, token.new_tensor(ends))
        ended = now if ended is None else ended | now
        columns.append(token.masked_fill(ended, ends[0]))
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(ends[0])] if ends[0] in row else row for row in rows]


def _causal(
    backbone: CausalBackbone, batch: CausalBatch, tensors: Tensors, prompts: forward.Prefix | None
) -> Callable[[Tensor | None], Tensor]:
    if prompts is None:
        return _alone(backbone, batch, tensors)
    m = tensors.prompt.shape[1]
    every = torch.arange(len(batch.ids), device=batch.ids.device)
    last = batch.real.sum(1) - 1
    cache = prompts.cache(backbone, batch.adapter_id)
    held = torch.cat([batch.real.new_ones(len(every), m), batch.real], dim=1)
    row, position = batch.rows[every, last], batch.positions[every, last]
    places = behind_prompt(m + batch.positions, m)
    scene = forward.scene_of(backbone, batch)
    around = (None, None, {}) if scene is None else scene.around(m + batch.positions)
    turns = around[0]
    turn = None if turns is None else turns[:, every, last]

    def following(token: Tensor | None) -> Tensor:
        nonlocal held, row, position, places, turn
        if token is None:
            embeddings = forward.embedded(backbone, batch, tensors)
            mask = see_prompt(batch.allowed, m)
            hidden, _ = backbone.run_layers(embeddings, m + batch.positions, mask, cache, places, (), *around)
            return backbone.head(hidden[every, last])
        row, position = row + 1, position + 1
        turn = None if turn is None else turn + 1
        held = torch.cat([held, held.new_ones(len(every), 1)], dim=1)
        places = torch.cat([places, m + position[:, None]], dim=1)
        embeddings = shift(backbone.embed(token[:, None]), row[:, None], batch.adapter_id, tensors)
        new = None if turn is None else turn[..., None]
        hidden, _ = backbone.run_layers(embeddings, m + position[:, None], held[:, None, None], cache, places, (), new)
        return backbone.head(hidden[:, 0])

    return following


def _alone(backbone: CausalBackbone, batch: CausalBatch, tensors: Tensors) -> Callable[[Tensor | None], Tensor]:
    """As `_causal`, where a backbone is computed row by row: whole rows anew for each token."""
    every = torch.arange(len(batch.ids), device=batch.ids.device)
    ids, rows, real = batch.ids, batch.rows, batch.real
    scene = forward.scene_of(backbone, batch)
    front = forward.in_front(backbone, batch, backbone.embed(batch.ids[:, :0]), tensors)
    embeddings = forward.embedded(backbone, batch, tensors)

    def following(token: Tensor | None) -> Tensor:
        nonlocal embeddings, ids, rows, real, scene
        if token is not None:  # behind the last token of each row, whatever stands in others
            column, last = real.sum(1), real.sum(1) - 1
            embeddings, ids, rows = (torch.cat([part, part[:, :1]], dim=1) for part in (embeddings, ids, rows))
            ids[every, column] = token
            real = torch.cat([real, real.new_zeros(len(every), 1)], dim=1)
            real[every, column] = True
            rows[every, column] = row = rows[every, last] + 1
            added = shift(backbone.embed(token[:, None]), row[:, None], batch.adapter_id, tensors)
            embeddings[every, column] = added[:, 0]
            new = torch.zeros_like(real)
            new[every, column] = True
            scene = None if scene is None else scene.longer(ids, new)
        causal = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool, device=real.device).tril()
        states, _ = backbone.run_alone(embeddings, real, causal.expand(len(every), -1, -1), front, (), scene)
        return backbone.head(states[every, real.sum(1) - 1])

    return following


def _seq2seq(
    backbone: EncoderDecoderBackbone, batch: Seq2SeqBatch, tensors: Tensors
) -> Callable[[Tensor | None], Tensor]:
    embeddings = forward.embedded(backbone, batch, tensors)
    encoded, mask, _ = backbone.encode_text(embeddings, batch.real, tensors.prompt.index_select(0, batch.adapter_id))
    inputs = backbone.decoder_inputs(batch.targets)[:, :1]  # the start token alone

    def following(token: Tensor | None) -> Tensor:
        nonlocal inputs
        if token is not None:
            inputs = torch.cat([inputs, token[:, None]], dim=1)
        return backbone.run_decoder(encoded, mask, inputs)[:, -1]

    return following
