"""The options of a linear baseline, each by its mean loss over the folds of a draw's rows."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dept.baselines import probe, tfidf
from dept.engine.evaluate import summarise
from dept.engine.halving import Found, Tried, mean
from dept.trial import TrialSpec
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.linear import fitted, inputs_of, told_option
from flows.execution.rows import TaskExample, rows_of

Fold = tuple[list[TaskExample], list[TaskExample]]  # what trains, and what validates
TRIED = "tried"


def search_linear(context: RunContext, lease: Lease, spec: TrialSpec, folds: Sequence[Fold]) -> tuple[Found, list[str]]:
    """What each option reaches, and the options in words. A row is read once, whatever is made of it.

    Raises:
        InputError: rows that do not fit.
    """
    began, parts = time.monotonic(), []
    for fold in folds:
        rows = [rows_of(context, part, spec.adapter) for part in fold]
        given = [inputs_of(context, lease, spec, part, own) for part, own in zip(fold, rows, strict=True)]
        parts.append((given[0], rows[0], given[1], rows[1]))
    options, tried = (probe if spec.method == "probe" else tfidf).OPTIONS, []
    for option in options:
        reached = []
        for shots, training, checked, validation in parts:
            model = fitted(spec, shots, training, checked, validation, option)
            reached.append(summarise(model.score(checked), validation))
            lease.progress()
        found = mean(reached, [len(validation) for *_, validation in parts])
        tried.append(Tried([(0, found["loss"])], [(0, found["score"])], TRIED))
    tokens = sum(len(row.source) for row in {*parts[0][1], *parts[0][3]}) if spec.method == "probe" else 0
    return Found(tried, 0, tokens, time.monotonic() - began), [told_option(option) for option in options]
