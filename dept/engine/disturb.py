"""What hinders a trial from learning its few rows by heart: dropout on P, noise on text embeddings.

Random numbers are a function of a trial's seed, the step and the row's place in it: not of the stack, the token budget,
the device or the ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dept.batches.collate import Batch
from dept.batches.pack import Pack


@dataclass(frozen=True)
class Noise:
    """Noise on one row's text in one step: uniform in ±alpha / sqrt(tokens * d) (NEFTune, arXiv 2310.05914)."""

    alpha: float
    seed: int
    step: int
    place: int

    def drawn(self, tokens: int, d: int) -> Tensor:
        """[tokens, d]."""
        found = torch.rand(tokens, d, generator=_generator("noise", self.seed, self.step, self.place))
        return (2 * found - 1) * (self.alpha / math.sqrt(tokens * d))


@dataclass(frozen=True)
class Disturbance:
    """What a step does beside its rows.

    Attributes:
        smoothing: of each adapter; none: of no adapter.
        noise: of each item, None where there is none; empty: of no item.
    """

    smoothing: Sequence[float] = ()
    noise: Sequence[Noise | None] = field(default=())

    def on(self, group: Sequence[Pack], batch: Batch, d: int) -> Tensor | None:
        """What is added to the embeddings of a micro-batch: [R, T, d] on its device, 0 off the text."""
        rows = [(index, row) for pack in group for index, row in zip(pack.indices, pack.rows, strict=True)]
        if not any(self.noise[index] for index, _ in rows if self.noise):
            return None
        drawn = []
        for index, row in rows:
            noise, tokens = self.noise[index], len(row.source) - (row.seen.size if row.seen else 0)
            drawn.append(torch.zeros(tokens, d) if noise is None else noise.drawn(tokens, d))
        found = torch.zeros(*batch.text.shape, d)
        found[(batch.text < len(rows)).cpu()] = torch.cat(drawn)  # texts lie in the order of the packs' rows
        return found.to(batch.text.device)


def dropped(shape: Sequence[int], share: float, seed: int, step: int) -> Tensor:
    """Factors on the numbers of a prompt: 0 for a random `share` of them, 1 / (1 - share) for the others."""
    if not share:
        return torch.ones(*shape)
    return (torch.rand(*shape, generator=_generator("dropout", seed, step)) >= share) / (1 - share)


def _generator(*key: object) -> torch.Generator:
    """On the CPU whatever the device, for the same numbers everywhere; its seeds have 32 bits, hence the digest."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big"))
