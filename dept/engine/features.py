"""Hidden states of texts, pooled: what a head or a linear probe reads, by the very passes that score words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.collate import Batch
from dept.batches.tokenise import Row
from dept.engine import forward
from dept.engine.evaluate import Progress, run_items
from dept.engine.memory import token_budget

_NO_ANSWER = ((0,),)  # one token that would be predicted by the text and enters nothing


@torch.inference_mode()
def features(
    backbone: Backbone,
    items: Sequence[tuple[int, Row]],
    depths: Sequence[float],
    tensors: Tensors | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Mean hidden states over the tokens of each text: float32 [rows, depths * d] on the CPU, in the items' order.

    Args:
        items: (adapter id, row); of a row the text alone counts.
        depths: share of the layers, 0 the embeddings, 1 the last; of an encoder-decoder those of its encoder.
        tensors: of the adapters, whose prompts stand in front; none: the bare frozen backbone, text alone.
        budget, progress: see `run_items`; default budget by rule.

    Raises:
        InputError: a text that the backbone has no positions for.
    """
    if not items:
        return torch.zeros(0, len(depths) * backbone.d)
    texts = [(which, _text_of(row, tensors is None)) for which, row in items]
    forward.check_lengths(backbone, tensors, texts)
    prompts = forward.prefix(backbone, tensors) if tensors is not None else None
    found: list[Tensor] = []

    def run(batch: Batch) -> Tensor:
        """Where the texts of a batch stand among all that was found."""
        states = forward.passed(backbone, batch, tensors, prompts, depths).states
        first = sum(map(len, found))
        found.append(forward.pooled(batch, states).cpu())
        return torch.arange(first, first + len(batch.owner))

    places = run_items(backbone, texts, budget or token_budget(backbone), run, progress)
    return torch.cat(found)[[int(place) for (place,) in places]]


def _text_of(row: Row, bare: bool) -> Row:
    """A row without its answers; before a bare backbone no row of A, and so no gap, stands before the text.

    And no masks stand in it.
    """
    row = replace(row, candidates=_NO_ANSWER, gold=0, first=0 if bare else row.first)
    if not bare or not row.masks:
        return row
    left = tuple(token for at, token in enumerate(row.source) if at not in row.masks)
    return replace(row, source=left, masks=())
