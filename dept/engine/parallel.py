"""How the ranks of a sharded run share a step; one process alone needs nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from dept.batches.pack import Pack
from dept.engine.evaluate import Raw


class Parallel(Protocol):
    """How ranks share a step. The local one does nothing."""

    saves: bool  # whether this process writes checkpoints and puts damaged ones aside

    def share(self, groups: list[list[Pack]]) -> list[tuple[list[Pack], float]]:
        """This rank's micro-batches and their weights; every rank gets equally many."""

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over the ranks, in place."""

    def agree(self, scores: list[list[float]]) -> list[list[float]]:
        """The first rank's scores, so that all ranks decide alike."""


class Local:
    """One process: every micro-batch is ours."""

    saves = True

    def share(self, groups: list[list[Pack]]) -> list[tuple[list[Pack], float]]:
        """All of them, each with weight 1."""
        return [(group, 1.0) for group in groups]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add."""

    def agree(self, scores: list[list[float]]) -> list[list[float]]:
        """Our own."""
        return scores


def agreed(parallel: Parallel, raw: Raw) -> Raw:
    """Scores on which all ranks agree."""
    if not raw.words:
        return raw
    found = parallel.agree([*raw.words, *(raw.head or [])])
    words, head = Raw(found).divided(len(raw.words))
    return Raw(words.words, None if raw.head is None else head.words)
