"""The options of a linear baseline, each by all rows of a draw, scored by what was fitted on the other folds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dept.baselines import probe, tfidf
from dept.baselines.linear import Chosen, judged
from dept.engine.halving import Found, Tried
from dept.trial import TrialSpec, goodness
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.linear import tempered, told_option
from flows.execution.progress import say
from flows.execution.reading import inputs_of, rows_to_read
from flows.execution.rows import TaskExample
from infra.errors import InputError

Examples = list[TaskExample]
Fold = tuple[Examples, Examples]  # what trains, and what validates
TRIED = "tried"


def search_linear(context: RunContext, lease: Lease, spec: TrialSpec, folds: Sequence[Fold]) -> tuple[Found, list[str]]:
    """What each option reaches, and the options in words.

    Args:
        folds: see `judged_options`.

    Raises:
        InputError: rows that do not fit.
    """
    began = time.monotonic()
    found, tokens = judged_options(context, lease, spec, folds)
    tried = [Tried([(0, one.found["loss"])], [(0, one.found["score"])], TRIED) for one in found]
    return Found(tried, 0, tokens, time.monotonic() - began), [told_option(one.option) for one in found]


def judged_options(
    context: RunContext, lease: Lease, spec: TrialSpec, folds: Sequence[Fold]
) -> tuple[list[Chosen], int]:
    """Each option of a linear baseline by all rows, and their tokens. A row is read once, whatever is made of it.

    The loss of an option is at the temperature that the held-out rows of all folds give, leave-one-out.

    Args:
        spec: names the method and how long its texts are. folds: of the same rows; those of the first are all.

    Raises:
        InputError: rows that do not fit.
    """
    every = [example for part in folds[0] for example in part]
    rows = rows_to_read(context, spec.method, every, spec.adapter)
    given = inputs_of(context, spec.method, every, rows, lease.progress)
    place = {_key(example): at for at, example in enumerate(every)}
    places = [([place[_key(one)] for one in known], [place[_key(one)] for one in held]) for known, held in folds]
    way = (probe if spec.method == "probe" else tfidf).WAY
    return judged(way, given, rows, places, tempered(spec), lease.progress), sum(len(row.source) for row in rows)


def beside(context: RunContext, lease: Lease, spec: TrialSpec, folds: Sequence[Fold]) -> dict[str, list[list[float]]]:
    """What the best option of each linear baseline beside a search's candidates answers rows held out.

    One that cannot be fitted, as where hidden states are not finite, is said and left out.
    """
    found = {}
    for method in spec.search.beside if spec.search else ():
        shape = spec.adapter.of_method(method, context.d, context.room)
        alone = spec.model_copy(update={"method": method, "adapter": shape})
        try:
            options, _ = judged_options(context, lease, alone, folds)
        except InputError as error:
            say(f"{spec.label}: {method} answers with nobody: {error}")
            continue
        found[str(method)] = max(options, key=lambda one: goodness(one.found)).held_out
    return found


def _key(example: TaskExample) -> tuple[str, str]:
    return example[0], example[1].id
