"""Linear baselines: a probe of the bare backbone, and TF-IDF. Both cost seconds, most of them to read the rows once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dept.baselines.linear import Chosen, Option
from dept.baselines.probe import train_probe
from dept.baselines.regression import Regression
from dept.baselines.tfidf import train_tfidf
from dept.batches.tokenise import Row
from dept.engine.memory import peak_memory_mib
from dept.engine.state import State
from dept.trial import TrialSpec
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.measure import of_scores
from flows.execution.reading import inputs_of, rows_to_read
from flows.execution.record import close, fail, keep, manifest, outcome_of
from flows.execution.rows import examples_of, of_task, tests_of
from infra.errors import InputError
from registry.ledger import Claim


def linear_trial(context: RunContext, lease: Lease, claim: Claim) -> None:
    """Train, test and record one.

    Raises:
        LeaseLostError: another worker holds it.
        InputError: a full disk, or a store that does not answer.
    """
    spec = claim.spec
    lease.progress()
    try:
        examples = examples_of(context, spec)
        tested = tests_of(context, spec)
        parts = [*examples, of_task(spec.task, tested)]
        shots, checks, tests = (rows_to_read(context, spec.method, part, spec.adapter) for part in parts)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    began = time.monotonic()
    given, checked, asked = (
        inputs_of(context, spec.method, part, rows, lease.progress)
        for part, rows in zip(parts, (shots, checks, tests), strict=True)
    )
    try:
        model = _fitted(spec, given, shots, checked, checks)
    except InputError as error:  # features that are not finite
        fail(context, lease, claim, str(error))
        return
    state = State(best_step=0, best=model.validation, seconds=time.monotonic() - began, readout=model.chosen.told)
    state.tokens = state.padded = sum(len(row.source) for row in (*shots, *checks))
    outcome = outcome_of(context, spec, (*shots, *checks), state)
    outcome.peak_memory_mib, outcome.trainable = peak_memory_mib(), model.trainable
    outcome.extra["chosen"] = told_option(model.option)
    told = manifest(context, spec, *examples) | {"s": spec.adapter.s}
    if not keep(context, lease, claim, outcome, lambda folder: model.save(folder, **told)):
        return
    if tested:
        found = of_scores(context.tasks[spec.task], tested, tests, model.score(asked))
        outcome.test, outcome.cut_rows = found.metrics, outcome.cut_rows + found.cut
    if tested and not spec.refit and spec.validation_rows is None:  # a whole split is no part of the draw
        both = _fitted(spec, np.concatenate([given, checked]), [*shots, *checks], checked, checks, model.chosen)
        again = of_scores(context.tasks[spec.task], tested, tests, both.score(asked))
        outcome.extra["refit"] = again.metrics  # of the same choice, fitted on shots and validation rows together
    close(context, lease, [(claim, outcome)])


def tempered(spec: TrialSpec) -> bool:
    """Whether the answers of a linear baseline have a temperature: not where a plan wants scores as they are."""
    return spec.calibration != "none"


def told_option(option: Option) -> str:
    """What was chosen, in words; a probe reads layers by their depth, which are numbers."""
    layers = "layers " if isinstance(option.what[0], float) else ""
    return f"{layers}{' and '.join(map(str, option.what))}, C {option.c:g}"


def _fitted(
    spec: TrialSpec, given: Any, shots: Sequence[Row], checked: Any, checks: Sequence[Row], chosen: Chosen | None = None
) -> Regression:
    """A linear baseline of what `inputs_of` gave of shots and of the rows that validate; see `train_probe`."""
    train = train_probe if spec.method == "probe" else train_tfidf
    return train(given, shots, checked, checks, chosen, tempered(spec))
