"""What linear baselines read of rows: hidden states of the bare backbone, or the contents of texts.

Each row is read by a backbone once in a worker, however many trials ask for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dept.baselines.probe import DEPTHS
from dept.baselines.tfidf import contents
from dept.batches.tokenise import Row
from dept.config import AdapterConfig
from dept.trial import Method
from flows.execution.context import RunContext
from flows.execution.rows import TaskExample, rows_of

MOST_BYTES = 256 * 2**20  # of features that are kept; those asked for longest ago go first
Key = tuple[str, str, tuple[float, ...], tuple[int, ...], str]  # weights, number type, depths, tokens, picture
_kept: OrderedDict[Key, Tensor] = OrderedDict()


def rows_to_read(
    context: RunContext, method: Method | str, examples: Sequence[TaskExample], shape: AdapterConfig
) -> list[Row]:
    """Rows of examples for a linear baseline; of TF-IDF, which reads no tokens, the labels alone.

    Raises:
        InputError: rows that do not fit.
    """
    if method != "tfidf":
        return rows_of(context, examples, shape)
    return [Row((), ((0,),) * len(context.tasks[name].words), example.label, 0) for name, example in examples]


def inputs_of(
    context: RunContext,
    method: Method | str,
    examples: Sequence[TaskExample],
    rows: Sequence[Row],
    progress: Callable[[int], None] | None = None,
) -> Any:
    """What it reads of them, an array: hidden states [rows, F], or the contents of the texts, whole.

    Args:
        examples: of one task. rows: theirs, see `rows_to_read`. progress: see `features_of`.
    """
    if method != "tfidf":
        return np.asarray(features_of(context, rows, DEPTHS, progress))
    template = context.tasks[examples[0][0]].template if examples else ""
    return np.array(contents([example.text for _, example in examples], template), dtype=object)


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
    keys: list[Key] = [(*of, row.source, row.seen.picture.sha256 if row.seen else "") for row in rows]
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
