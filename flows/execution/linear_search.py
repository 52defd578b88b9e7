"""The options of a linear baseline, each by all rows of a draw, scored by what was fitted on the other folds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dept.baselines import probe, tfidf
from dept.baselines.linear import judged
from dept.engine.halving import Found, Tried
from dept.trial import TrialSpec
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.linear import tempered, told_option
from flows.execution.reading import inputs_of, rows_to_read
from flows.execution.rows import TaskExample

Examples = list[TaskExample]
Fold = tuple[Examples, Examples]  # what trains, and what validates
TRIED = "tried"


def search_linear(context: RunContext, lease: Lease, spec: TrialSpec, folds: Sequence[Fold]) -> tuple[Found, list[str]]:
    """What each option reaches, and the options in words. A row is read once, whatever is made of it.

    The loss of an option is at the temperature that the held-out rows of all folds give, leave-one-out.

    Args:
        folds: of the same rows; those of the first are all.

    Raises:
        InputError: rows that do not fit.
    """
    began, every = time.monotonic(), [example for part in folds[0] for example in part]
    rows = rows_to_read(context, spec.method, every, spec.adapter)
    given = inputs_of(context, spec.method, every, rows, lease.progress)
    place = {_key(example): at for at, example in enumerate(every)}
    places = [([place[_key(one)] for one in known], [place[_key(one)] for one in held]) for known, held in folds]
    way = (probe if spec.method == "probe" else tfidf).WAY
    found = judged(way, given, rows, places, tempered(spec), lease.progress)
    tried = [Tried([(0, one.found["loss"])], [(0, one.found["score"])], TRIED) for one in found]
    tokens = sum(len(row.source) for row in rows)
    return Found(tried, 0, tokens, time.monotonic() - began), [told_option(one.option) for one in found]


def _key(example: TaskExample) -> tuple[str, str]:
    return example[0], example[1].id
