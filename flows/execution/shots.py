"""In-context learning on rows held out: each fold answers those that it does not show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dept.engine.evaluate import Raw, summarise
from dept.engine.halving import Found, Tried
from dept.engine.state import Trial
from flows.execution.context import RunContext

SHOWN = "nothing to train"


def shown_shots(context: RunContext, folds: Sequence[Trial], progress: Callable[[int], None]) -> Found:
    """What one candidate reaches, and its raw scores. No stack: prompts of different shots differ in length.

    Args:
        folds: each starts as its shots and answers its validation rows.
        progress: called with the tokens of each micro-batch.
    """
    began, spent, words = time.monotonic(), [0], []

    def told(tokens: int) -> None:
        spent[0] += tokens
        progress(tokens)

    for fold in folds:
        words += context.backbone.score([fold.start], [(0, row) for row in fold.validation], told)
    reached = summarise(words, [row for fold in folds for row in fold.validation])
    tried = Tried([(0, reached["loss"])], [(0, reached["score"])], SHOWN)
    return Found([tried], 0, spent[0], time.monotonic() - began, raws={0: Raw(words)})
