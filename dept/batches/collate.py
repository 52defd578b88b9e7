"""Micro-batches -> tensors. No padding to s: every token carries its row of A explicitly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from dept.backbones.base import IGNORE, Backbone
from dept.batches.pack import Pack
from dept.batches.tokenise import Row
from tasks.pictures import Picture


@dataclass
class Sight:
    """Where pictures stand in a micro-batch of R packs, T tokens wide, with V vectors in all.

    Attributes:
        blank: bool [R, T], True in the blocks of pictures, which have no rows of A.
        positions: [R, T], behind the prompt: rows of A, with the blocks counted.
        at: [V], flat positions in R * T of the vectors.
        which: [V], of which of `pictures`. index: [V], the number of the vector in its picture.
        owner: [V], the adapter. own: bool [V], the vector is the backbone's, not that of the adapter's map.
        pictures: each once.
        blocks: of pictures that the backbone sees itself: row, first column, columns, column behind its text's answers,
            which of `pictures`. vectors: of each of these, where in its block vectors stand.
    """

    blank: Tensor
    positions: Tensor
    at: Tensor
    which: Tensor
    index: Tensor
    owner: Tensor
    own: Tensor
    pictures: tuple[Picture, ...]
    blocks: tuple[tuple[int, int, int, int, int], ...] = ()
    vectors: tuple[tuple[int, ...], ...] = ()

    def to(self, device: torch.device) -> Sight:
        """The same on another device."""
        moved: dict[str, Any] = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, **moved)

    def part(self, vectors: Tensor) -> Sight:
        """Some of the vectors alone, by their numbers, and the pictures that these are of."""
        used, which = self.which[vectors].unique(return_inverse=True)
        pictures = tuple(self.pictures[one] for one in used.tolist())
        some = {name: getattr(self, name)[vectors] for name in ("at", "index", "owner", "own")}
        return replace(self, **some, which=which, pictures=pictures, blocks=(), vectors=())


@dataclass
class Batch:
    """Tensors of one micro-batch of R packs, T tokens wide, with B texts and C candidates in all.

    `rows[i, t]` is the token's row of A (in pictures 0), and m + `positions[i, t]` its position for causal backbones.
    `adapter_id[i]` is the pack's adapter in the stack, `candidate_row[c]` the pack of a candidate. `text[i, t]` is the
    text that a token belongs to, B for padding, pictures and the tokens of answers; `owner[b]` is a text's adapter,
    `table[b]` its candidates, C where there are fewer than in the widest row, and `gold[b]` which of them is right, 0
    where unknown. `soft[b]` is the probability that each of them should have, 0 throughout where `gold` alone counts;
    None where no row has any. `seen` says where pictures stand; None where there are none.
    """

    ids: Tensor
    real: Tensor
    rows: Tensor
    adapter_id: Tensor
    candidate_row: Tensor
    text: Tensor
    owner: Tensor
    table: Tensor
    gold: Tensor
    soft: Tensor | None
    seen: Sight | None

    @property
    def positions(self) -> Tensor:
        """Positions behind the prompt [R, T]."""
        return self.rows if self.seen is None else self.seen.positions

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int(self.real.sum())

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        moved: dict[str, Any] = {name: None if t is None else t.to(device) for name, t in vars(self).items()}
        return replace(self, **moved)


@dataclass
class PickedBatch(Batch):
    """A candidate's log-probability is the sum over its picks of log p(token | hidden[query]); `query` holds flat
    positions in R * T.
    """

    query: Tensor
    pick_query: Tensor
    pick_token: Tensor
    pick_candidate: Tensor


@dataclass
class CausalBatch(PickedBatch):
    """`allowed` [R, T, T]: which tokens of its pack a token sees."""

    allowed: Tensor


@dataclass
class EncoderBatch(PickedBatch):
    """One text a row; a candidate's tokens are told at the masks of its text."""


@dataclass
class Seq2SeqBatch(Batch):
    """`targets` [C, L]: decoder labels of each candidate, -100 behind its end."""

    targets: Tensor


def collate(packs: Sequence[Pack], backbone: Backbone) -> Batch:
    """Make the tensors of one micro-batch on the backbone's device; candidates keep the order of the packs' rows."""
    if backbone.family == "causal":
        return _collate_causal(packs, backbone).to(backbone.device)
    if backbone.family == "encoder":
        return _collate_encoder(packs, backbone).to(backbone.device)
    return _collate_seq2seq(packs, backbone).to(backbone.device)


def _blank(packs: Sequence[Pack], pad: int, width: int) -> dict[str, Any]:
    return {
        "ids": torch.full((len(packs), width), pad),
        "real": torch.zeros(len(packs), width, dtype=torch.bool),
        "rows": torch.zeros(len(packs), width, dtype=torch.long),
        "adapter_id": torch.tensor([pack.adapter_id for pack in packs]),
        "candidate_row": torch.tensor([i for i, pack in enumerate(packs) for row in pack.rows for _ in row.candidates]),
        **_texts(packs, width),
        "seen": None,
    }


def _sight(text: dict[str, Any], places: Sequence[tuple[int, slice, Row]]) -> None:
    """Note the pictures of rows, and take the rows of A, and their part in the text, away from them.

    Args:
        places: row and columns of the batch where each row, its answers included, lies.
    """
    if not any(row.seen for _, _, row in places):
        return
    rows, width = text["rows"], text["ids"].shape[1]
    blank, positions = torch.zeros_like(text["real"]), rows.clone()
    known: dict[Picture, int] = {}
    vectors: list[tuple[int, ...]] = []
    blocks: list[tuple[int, int, int, int, int]] = []
    inside: list[tuple[int, ...]] = []
    for i, place, row in places:
        if row.seen is None:
            continue
        begin, size = place.start + row.seen.at, row.seen.size
        blank[i, begin : begin + size] = True
        rows[i, begin + size : place.stop] -= size  # the rest of the text, and its answers
        one, adapter = known.setdefault(row.seen.picture, len(known)), int(text["adapter_id"][i])
        if row.seen.own:
            blocks.append((i, begin, size, place.stop, one))
            inside.append(row.seen.vectors)
        about = one, adapter, row.seen.own
        vectors += [(i * width + begin + v, number, *about) for number, v in enumerate(row.seen.vectors)]
    rows[blank] = 0
    text["text"][blank] = len(text["owner"])
    at, index, which, owner, own = torch.tensor(vectors, dtype=torch.long).reshape(-1, 5).T.contiguous()
    each = at, which, index, owner, own.bool()
    text["seen"] = Sight(blank, positions, *each, tuple(known), tuple(blocks), tuple(inside))


def _texts(packs: Sequence[Pack], width: int) -> dict[str, Any]:
    """Which text a token, an adapter and a candidate belong to."""
    rows = [row for pack in packs for row in pack.rows]
    counts = [len(row.candidates) for row in rows]
    ends = list(itertools.accumulate(counts))
    widest, total = max(counts), ends[-1]
    lines = [[*range(end - count, end), *[total] * (widest - count)] for end, count in zip(ends, counts, strict=True)]
    soft = [[*row.soft, *[0.0] * (widest - len(row.soft))] for row in rows]
    return {
        "text": torch.full((len(packs), width), len(rows)),
        "owner": torch.tensor([pack.adapter_id for pack in packs for _ in pack.rows]),
        "table": torch.tensor(lines),
        "gold": torch.tensor([max(0, row.gold) for row in rows]),
        "soft": torch.tensor(soft) if any(row.soft for row in rows) else None,
    }


def _write(text: dict[str, Any], i: int, at: int, tokens: Sequence[int], first: int) -> None:
    """Put tokens, of which the first has row `first` of A, into row i of a batch from column `at` on."""
    place = slice(at, at + len(tokens))
    text["ids"][i, place] = torch.tensor(tokens)
    text["real"][i, place] = True
    text["rows"][i, place] = torch.arange(first, first + len(tokens))


def _collate_causal(packs: Sequence[Pack], backbone: Backbone) -> CausalBatch:
    width = max(pack.length for pack in packs)
    text: dict[str, Any] = _blank(packs, backbone.pad_id, width)
    allowed = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(packs), 1, 1)
    query: dict[int, int] = {}
    picks: list[tuple[int, int, int]] = []
    candidate_index = text_index = 0
    places = []
    for i, pack in enumerate(packs):
        tail = 0  # where the next text or label word begins
        for row in pack.rows:
            begin, end = tail, tail + len(row.source)
            allowed[i, begin : begin + row.length, :begin] = False
            _write(text, i, begin, row.source, row.first)
            places.append((i, slice(begin, begin + row.length), row))
            text["text"][i, begin:end] = text_index
            text_index += 1
            tail = end
            # Label words lie behind their text, one after the other, and see only the text and themselves.
            for candidate in row.candidates:
                inner = len(candidate) - 1
                if inner:
                    _write(text, i, tail, candidate[:-1], row.first + len(row.source))
                    allowed[i, tail : tail + inner, end:tail] = False
                for j, token in enumerate(candidate):
                    position = i * width + (end - 1 if j == 0 else tail + j - 1)
                    picks.append((query.setdefault(position, len(query)), token, candidate_index))
                tail += inner
                candidate_index += 1
    _sight(text, places)
    allowed &= text["real"][:, None, :]
    text |= {"allowed": allowed, "query": torch.tensor(list(query)), **_columns(picks)}
    return CausalBatch(**text)


def _columns(picks: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    columns = torch.tensor(picks, dtype=torch.long).reshape(-1, 3).T.contiguous()
    return dict(zip(("pick_query", "pick_token", "pick_candidate"), columns, strict=True))


def _one_each(packs: Sequence[Pack], backbone: Backbone) -> tuple[list[Row], dict[str, Any]]:
    """The texts of packs, one in each, and their tensors."""
    rows = [row for pack in packs for row in pack.rows]
    text = _blank(packs, backbone.pad_id, max(len(row.source) for row in rows))
    for i, row in enumerate(rows):
        _write(text, i, 0, row.source, row.first)
        text["text"][i, : len(row.source)] = i
    _sight(text, [(i, slice(0, len(row.source)), row) for i, row in enumerate(rows)])
    return rows, text


def _collate_encoder(packs: Sequence[Pack], backbone: Backbone) -> EncoderBatch:
    rows, text = _one_each(packs, backbone)
    width = text["ids"].shape[1]
    query: dict[int, int] = {}
    picks: list[tuple[int, int, int]] = []
    candidates = [(i, candidate) for i, row in enumerate(rows) for candidate in row.candidates]
    for number, (i, candidate) in enumerate(candidates):
        for at, token in zip(rows[i].masks, candidate, strict=False):  # no masks: a head alone tells
            picks.append((query.setdefault(i * width + at, len(query)), token, number))
    text |= {"query": torch.tensor(list(query), dtype=torch.long), **_columns(picks)}
    return EncoderBatch(**text)


def _collate_seq2seq(packs: Sequence[Pack], backbone: Backbone) -> Seq2SeqBatch:
    rows, text = _one_each(packs, backbone)
    candidates = [candidate for row in rows for candidate in row.candidates]
    targets = torch.full((len(candidates), max(map(len, candidates))), IGNORE)
    for i, candidate in enumerate(candidates):
        targets[i, : len(candidate)] = torch.tensor(candidate)
    return Seq2SeqBatch(**text, targets=targets)
