"""Text -> rows of tokens -> micro-batches of tensors. No padding to s: every token carries its row of A explicitly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from dept.config import AdapterConfig
from tasks.errors import InputError

if TYPE_CHECKING:
    from dept.backbone import Backbone

IGNORE = -100  # label value that no loss counts (the convention of transformers)


@dataclass(frozen=True)
class Row:
    """One text and the label words that may follow it.

    Attributes:
        source: token ids of the text.
        branches: token ids of each candidate label word; training rows hold the right one alone.
        gold: index of the right branch, -1 where unknown.
        first: row of A (and position after the prompt) of the first source token.
        cut: the text was longer than the adapter's s.
    """

    source: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    gold: int
    first: int
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens that enter the backbone: the text, and all but the last token of each branch (causal)."""
        return len(self.source) + sum(len(branch) - 1 for branch in self.branches)

    def only_gold(self) -> Row:
        """The same row with the right branch alone, as training wants it."""
        return replace(self, branches=(self.branches[self.gold],), gold=0)


@dataclass
class Batch:
    """Tensors of one micro-batch of R rows, T tokens wide, with C branches in all.

    `rows[i, t]` is the token's row of A, and m + row its position for causal backbones. `slot[i]` is the row's adapter
    in the stack, `branch_row[c]` the row of a branch.
    """

    ids: Tensor
    real: Tensor
    rows: Tensor
    slot: Tensor
    branch_row: Tensor

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int(self.real.sum())

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


@dataclass
class CausalBatch(Batch):
    """`allowed` [R, T, T]: which tokens of its row a token sees. A branch's log-probability is the sum over its picks
    of log p(token | hidden[query]); `query` holds flat positions in R * T.
    """

    allowed: Tensor
    query: Tensor
    pick_query: Tensor
    pick_token: Tensor
    pick_branch: Tensor


@dataclass
class Seq2SeqBatch(Batch):
    """`targets` [C, L]: decoder labels of each branch, -100 behind its end."""

    targets: Tensor


def first_row(length: int, s: int, layout: str) -> int:
    """Row of A of the first of `length` tokens.

    "paper" pads causal inputs on the left to s, so the text ends at row s-1; "adjacent" starts at row 0, right behind
    the prompt. Encoder-decoder backbones pad on the right: both layouts are the same there.
    """
    return s - length if layout == "paper" else 0


def encode(
    backbone: Backbone, texts: Sequence[str], words: Sequence[str], labels: Sequence[int] | None, config: AdapterConfig
) -> list[Row]:
    """Tokenise texts and label words for an adapter of shape `config`.

    A text longer than s is cut and marked: causal backbones keep its end, where the question stands; encoder-decoder
    backbones keep its beginning and the end-of-sequence token, as the authors do.

    Raises:
        InputError: a label word that leaves no room for text within s, or two words of the same tokens.
    """
    branches = backbone.encode_words(tuple(words))
    causal = backbone.family == "causal"
    reserve = max(len(branch) for branch in branches) if causal else 0
    room = config.s - reserve
    if room < 1:
        raise InputError(
            f"adapter: s={config.s} leaves no room for text beside a label word of {reserve} tokens. "
            "Remedy: a larger s or shorter words"
        )
    rows = []
    for index, ids in enumerate(backbone.encode_texts(texts)):
        cut = len(ids) > room
        if cut:
            ids = ids[-room:] if causal else [*ids[: room - 1], ids[-1]]
        # The longest word counts, so that a text keeps its rows whichever label follows it.
        first = first_row(len(ids) + reserve, config.s, config.layout) if causal else 0
        rows.append(Row(tuple(ids), branches, -1 if labels is None else labels[index], first, cut))
    return rows


def micro_batches(items: Sequence[tuple[int, Row]], budget: int) -> Iterator[list[tuple[int, tuple[int, Row]]]]:
    """Cut (slot, row) items into groups of at most `budget` padded tokens, similar lengths together.

    Of all ways to cut the rows in order of length, the one with the fewest padded tokens, where each group costs as
    much as budget / 16 tokens more. Yields groups of (index into items, item), longest rows first, so that memory
    peaks at once.
    """
    order = sorted(range(len(items)), key=lambda i: (-items[i][1].length, items[i][0], i))
    lengths = [items[i][1].length for i in order]
    cost, start = [0.0] + [math.inf] * len(order), [0] * (len(order) + 1)
    for first, length in enumerate(lengths):
        most = max(1, budget // length)
        for end in range(first + 1, min(first + most, len(order)) + 1):
            here = cost[first] + (end - first) * length + budget / 16
            if here < cost[end]:
                cost[end], start[end] = here, first
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(start[cuts[-1]])
    for first, end in itertools.pairwise(reversed(cuts)):
        yield [(index, items[index]) for index in order[first:end]]


def collate(items: Sequence[tuple[int, Row]], backbone: Backbone) -> CausalBatch | Seq2SeqBatch:
    """Make the tensors of one micro-batch on the backbone's device; branches keep the order of the items."""
    if backbone.family == "causal":
        return _collate_causal(items, backbone).to(backbone.device)
    return _collate_seq2seq(items, backbone).to(backbone.device)


def _text(items: Sequence[tuple[int, Row]], pad: int, width: int) -> dict[str, Tensor]:
    ids = torch.full((len(items), width), pad)
    real = torch.zeros(len(items), width, dtype=torch.bool)
    rows = torch.zeros(len(items), width, dtype=torch.long)
    branch_row = []
    for i, (_, row) in enumerate(items):
        n = len(row.source)
        ids[i, :n] = torch.tensor(row.source)
        real[i, :n] = True
        rows[i, :n] = torch.arange(row.first, row.first + n)
        branch_row += [i] * len(row.branches)
    slot = torch.tensor([slot for slot, _ in items])
    return {"ids": ids, "real": real, "rows": rows, "slot": slot, "branch_row": torch.tensor(branch_row)}


def _collate_causal(items: Sequence[tuple[int, Row]], backbone: Backbone) -> CausalBatch:
    width = max(row.length for _, row in items)
    text = _text(items, backbone.pad_id, width)
    allowed = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(items), 1, 1)
    query: dict[int, int] = {}
    picks: list[tuple[int, int, int]] = []
    branch_index = 0
    for i, (_, row) in enumerate(items):
        n = len(row.source)
        tail = n  # label tokens lie behind the text, one branch after the other, and see only text and own branch
        for branch in row.branches:
            inner = len(branch) - 1
            if inner:
                text["ids"][i, tail : tail + inner] = torch.tensor(branch[:-1])
                text["real"][i, tail : tail + inner] = True
                text["rows"][i, tail : tail + inner] = torch.arange(row.first + n, row.first + n + inner)
                allowed[i, tail : tail + inner, n:tail] = False
            for j, token in enumerate(branch):
                position = i * width + (n - 1 if j == 0 else tail + j - 1)
                picks.append((query.setdefault(position, len(query)), token, branch_index))
            tail += inner
            branch_index += 1
    allowed &= text["real"][:, None, :]
    return CausalBatch(**text, allowed=allowed, query=torch.tensor(list(query)), **_columns(picks))


def _columns(picks: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    return dict(zip(("pick_query", "pick_token", "pick_branch"), torch.tensor(picks).T.contiguous(), strict=True))


def _collate_seq2seq(items: Sequence[tuple[int, Row]], backbone: Backbone) -> Seq2SeqBatch:
    text = _text(items, backbone.pad_id, max(len(row.source) for _, row in items))
    branches = [branch for _, row in items for branch in row.branches]
    targets = torch.full((len(branches), max(map(len, branches))), IGNORE)
    for i, branch in enumerate(branches):
        targets[i, : len(branch)] = torch.tensor(branch)
    return Seq2SeqBatch(**text, targets=targets)
