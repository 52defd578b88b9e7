"""Features of rows by the bare backbone, each row read once by a worker however many trials ask for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dept.batches.tokenise import Row
from flows.execution.context import RunContext

MOST_BYTES = 256 * 2**20  # of features that are kept; those asked for longest ago go first
Key = tuple[str, str, tuple[float, ...], tuple[int, ...]]  # weights, number type, depths, tokens of the text
_kept: OrderedDict[Key, Tensor] = OrderedDict()


def features_of(
    context: RunContext,
    rows: Sequence[Row],
    depths: Sequence[float],
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Pooled hidden states of texts, float32 [rows, depths * d]; see `dept.engine.features.features`.

    Args:
        progress: called with the tokens of each micro-batch that is read.
    """
    if not rows:
        return torch.zeros(0, len(depths) * context.d)
    of = context.backbone.weights_id, context.dtype, tuple(depths)
    keys: list[Key] = [(*of, row.source) for row in rows]
    known = {key: _kept[key] for key in keys if key in _kept}
    fresh = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    read = context.backbone.features([(0, row) for row in fresh.values()], depths, progress=progress)
    known |= {key: line.clone() for key, line in zip(fresh, read, strict=True)}
    _keep(known)
    return torch.stack([known[key] for key in keys])


def _keep(found: dict[Key, Tensor]) -> None:
    for key, value in found.items():
        _kept[key] = value
        _kept.move_to_end(key)
    room = max(1, MOST_BYTES // (4 * next(iter(found.values())).numel()))
    while len(_kept) > room:
        _kept.popitem(last=False)
