"""Text -> rows of tokens -> micro-batches of tensors. No padding to s: every token carries its row of A explicitly."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from dept.config import AdapterConfig
from infra.errors import InputError

if TYPE_CHECKING:
    from dept.backbones.backbone import Backbone

IGNORE = -100  # label value that no loss counts (the convention of transformers)
_ATTENTION = 1024  # length, tokens, of a pack in which a token costs twice as much as its matrix products alone


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
    """Tensors of one micro-batch of R packs, T tokens wide, with C branches in all.

    `rows[i, t]` is the token's row of A, and m + row its position for causal backbones. `slot[i]` is the pack's
    adapter in the stack, `branch_row[c]` the pack of a branch.
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
    """`allowed` [R, T, T]: which tokens of its pack a token sees. A branch's log-probability is the sum over its picks
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


@dataclass(frozen=True)
class Pack:
    """Texts of one adapter that lie one behind the other in one row of a batch; none sees another.

    Attributes:
        slot: the adapter's index in the stack.
        rows: the texts.
        indices: where they stood among the items that were cut into micro-batches.
    """

    slot: int
    rows: tuple[Row, ...]
    indices: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that enter the backbone."""
        return sum(row.length for row in self.rows)


def encode_answers(
    backbone: Backbone, texts: Sequence[str], answers: Sequence[str], config: AdapterConfig, longest: int
) -> list[Row]:
    """Tokenise texts and the answer that each is trained to be followed by, with the token that ends it.

    `longest` tokens are kept free for an answer, whatever its length, so that generation finds the text where training
    had it; a longer answer is cut.

    Raises:
        InputError: an s that leaves no room for text beside an answer.
    """
    causal = backbone.family == "causal"
    room = config.s - longest if causal else config.s
    if room < 1:
        raise InputError(f"adapter: s={config.s} leaves no room for text beside an answer of {longest} tokens")
    ends = backbone.encode_answers(answers)
    rows = []
    for ids, end in zip(backbone.encode_texts(texts), ends, strict=True):
        cut = len(ids) > room or len(end) > longest
        if len(ids) > room:
            ids = ids[-room:] if causal else [*ids[: room - 1], ids[-1]]
        first = first_row(len(ids) + longest, config.s, config.layout) if causal else 0
        rows.append(Row(tuple(ids), (tuple(end[:longest]),), 0, first, cut))
    return rows


def micro_batches(items: Sequence[tuple[int, Row]], budget: int, packing: bool) -> list[list[Pack]]:
    """Cut (slot, row) items into micro-batches of at most `budget` padded tokens, longest packs first.

    With `packing`, texts of one slot share a row of the batch, in packs of about equal length: less padding, fewer
    micro-batches and fewer copies of the slot's prompt. Several lengths are tried; the cheapest counts, see `_cut`.
    An encoder with relative positions wants each text right behind its prompt, so there `packing` is off.
    """
    if not items:
        return []
    longest = max(row.length for _, row in items)
    widths = [longest * factor for factor in (1, 1.5, 2, 3, 4)] if packing else []
    tried = [_cut([Pack(slot, (row,), (i,)) for i, (slot, row) in enumerate(items)], budget)]
    tried += [_cut(_packs(items, width), budget) for width in widths if width <= budget]
    return min(tried, key=lambda found: found[0])[1]


def _packs(items: Sequence[tuple[int, Row]], width: float) -> list[Pack]:
    """Packs of about `width` tokens: each text, longest first, goes to the shortest pack of its slot."""
    by_slot: dict[int, list[int]] = {}
    for index, (slot, _) in enumerate(items):
        by_slot.setdefault(slot, []).append(index)
    packs = []
    for slot, members in by_slot.items():
        total = sum(items[i][1].length for i in members)
        heap = [(0, number) for number in range(min(len(members), math.ceil(total / width)))]
        inside: list[list[int]] = [[] for _ in heap]
        for index in sorted(members, key=lambda i: (-items[i][1].length, i)):
            load, number = heapq.heappop(heap)
            inside[number].append(index)
            heapq.heappush(heap, (load + items[index][1].length, number))
        packs += [Pack(slot, tuple(items[i][1] for i in chosen), tuple(chosen)) for chosen in inside]
    return packs


def _cut(packs: list[Pack], budget: int) -> tuple[float, list[list[Pack]]]:
    """The cheapest way to cut packs, in order of length, into groups, and its cost in tokens.

    A padded token costs 1, and more in long packs, since a token's attention grows with its pack; each group costs
    budget / 8 more: reading the weights once more, and the start of every operation (measured).
    """
    packs = sorted(packs, key=lambda pack: (-pack.length, pack.slot, pack.indices))
    cost, start = [0.0] + [math.inf] * len(packs), [0] * (len(packs) + 1)
    for first, pack in enumerate(packs):
        length = pack.length
        for end in range(first + 1, min(first + max(1, budget // length), len(packs)) + 1):
            here = cost[first] + (end - first) * length * (1 + length / _ATTENTION) + budget / 8
            if here < cost[end]:
                cost[end], start[end] = here, first
    cuts = [len(packs)]
    while cuts[-1]:
        cuts.append(start[cuts[-1]])
    return cost[-1], [packs[first:end] for first, end in itertools.pairwise(reversed(cuts))]


def collate(packs: Sequence[Pack], backbone: Backbone) -> CausalBatch | Seq2SeqBatch:
    """Make the tensors of one micro-batch on the backbone's device; branches keep the order of the packs' rows."""
    if backbone.family == "causal":
        return _collate_causal(packs, backbone).to(backbone.device)
    return _collate_seq2seq(packs, backbone).to(backbone.device)


def _blank(packs: Sequence[Pack], pad: int, width: int) -> dict[str, Tensor]:
    return {
        "ids": torch.full((len(packs), width), pad),
        "real": torch.zeros(len(packs), width, dtype=torch.bool),
        "rows": torch.zeros(len(packs), width, dtype=torch.long),
        "slot": torch.tensor([pack.slot for pack in packs]),
        "branch_row": torch.tensor([i for i, pack in enumerate(packs) for row in pack.rows for _ in row.branches]),
    }


def _write(text: dict[str, Tensor], i: int, at: int, tokens: Sequence[int], first: int) -> None:
    """Put tokens, of which the first has row `first` of A, into row i of a batch from column `at` on."""
    place = slice(at, at + len(tokens))
    text["ids"][i, place] = torch.tensor(tokens)
    text["real"][i, place] = True
    text["rows"][i, place] = torch.arange(first, first + len(tokens))


def _collate_causal(packs: Sequence[Pack], backbone: Backbone) -> CausalBatch:
    width = max(pack.length for pack in packs)
    text = _blank(packs, backbone.pad_id, width)
    allowed = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(packs), 1, 1)
    query: dict[int, int] = {}
    picks: list[tuple[int, int, int]] = []
    branch_index = 0
    for i, pack in enumerate(packs):
        tail = 0  # where the next text or label word begins
        for row in pack.rows:
            begin, end = tail, tail + len(row.source)
            allowed[i, begin : begin + row.length, :begin] = False
            _write(text, i, begin, row.source, row.first)
            tail = end
            # Label words lie behind their text, one after the other, and see only the text and themselves.
            for branch in row.branches:
                inner = len(branch) - 1
                if inner:
                    _write(text, i, tail, branch[:-1], row.first + len(row.source))
                    allowed[i, tail : tail + inner, end:tail] = False
                for j, token in enumerate(branch):
                    position = i * width + (end - 1 if j == 0 else tail + j - 1)
                    picks.append((query.setdefault(position, len(query)), token, branch_index))
                tail += inner
                branch_index += 1
    allowed &= text["real"][:, None, :]
    return CausalBatch(**text, allowed=allowed, query=torch.tensor(list(query)), **_columns(picks))


def _columns(picks: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    return dict(zip(("pick_query", "pick_token", "pick_branch"), torch.tensor(picks).T.contiguous(), strict=True))


def _collate_seq2seq(packs: Sequence[Pack], backbone: Backbone) -> Seq2SeqBatch:
    rows = [row for pack in packs for row in pack.rows]  # one in each
    text = _blank(packs, backbone.pad_id, max(len(row.source) for row in rows))
    for i, row in enumerate(rows):
        _write(text, i, 0, row.source, row.first)
    branches = [branch for row in rows for branch in row.branches]
    targets = torch.full((len(branches), max(map(len, branches))), IGNORE)
    for i, branch in enumerate(branches):
        targets[i, : len(branch)] = torch.tensor(branch)
    return Seq2SeqBatch(**text, targets=targets)
