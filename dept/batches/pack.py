"""Rows -> micro-batches: what shares a row of a batch, and what shares a batch. No torch."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dept.batches.tokenise import Row

_ATTENTION = 1024  # length, tokens, of a pack in which a token costs twice as much as its matrix products alone


@dataclass(frozen=True)
class Pack:
    """Texts of one adapter that lie one behind the other in one row of a batch; none sees another.

    Attributes:
        adapter_id: the adapter's index in the stack.
        rows: the texts.
        indices: where they stood among the items that were cut into micro-batches.
    """

    adapter_id: int
    rows: tuple[Row, ...]
    indices: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that enter the backbone."""
        return sum(row.length for row in self.rows)


def micro_batches(items: Sequence[tuple[int, Row]], budget: int, packing: bool) -> list[list[Pack]]:
    """Cut (adapter_id, row) items into micro-batches of at most `budget` padded tokens, longest packs first.

    With `packing`, texts of one adapter share a row of the batch, in packs of about equal length: less padding, fewer
    micro-batches and fewer copies of the adapter's prompt. Several lengths are tried; the cheapest counts, see `_cut`.
    An encoder with relative positions wants each text right behind its prompt, so there `packing` is off.
    """
    if not items:
        return []
    longest = max(row.length for _, row in items)
    widths = [longest * factor for factor in (1, 1.5, 2, 3, 4)] if packing else []
    tried = [_cut([Pack(adapter_id, (row,), (i,)) for i, (adapter_id, row) in enumerate(items)], budget)]
    tried += [_cut(_packs(items, width), budget) for width in widths if width <= budget]
    return min(tried, key=lambda found: found[0])[1]


def _packs(items: Sequence[tuple[int, Row]], width: float) -> list[Pack]:
    """Packs of about `width` tokens: each text, longest first, goes to the shortest pack of its adapter."""
    by_adapter: dict[int, list[int]] = {}
    for index, (adapter_id, _) in enumerate(items):
        by_adapter.setdefault(adapter_id, []).append(index)
    packs = []
    for adapter_id, members in by_adapter.items():
        total = sum(items[i][1].length for i in members)
        heap = [(0, number) for number in range(min(len(members), math.ceil(total / width)))]
        inside: list[list[int]] = [[] for _ in heap]
        for index in sorted(members, key=lambda i: (-items[i][1].length, i)):
            load, number = heapq.heappop(heap)
            inside[number].append(index)
            heapq.heappush(heap, (load + items[index][1].length, number))
        packs += [Pack(adapter_id, tuple(items[i][1] for i in chosen), tuple(chosen)) for chosen in inside]
    return packs


def _cut(packs: list[Pack], budget: int) -> tuple[float, list[list[Pack]]]:
    """The cheapest way to cut packs, in order of length, into groups, and its cost in tokens.

    A padded token costs 1, and more in long packs, since a token's attention grows with its pack; each group costs
    budget / 8 more: reading the weights once more, and the start of every operation (measured).
    """
    packs = sorted(packs, key=lambda pack: (-pack.length, pack.adapter_id, pack.indices))
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
