"""Linear baselines: a probe of the bare backbone, and TF-IDF. Both cost seconds, most of them to read the rows once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from dept.baselines.linear import Option
from dept.baselines.probe import DEPTHS, Probe, train_probe
from dept.baselines.tfidf import Tfidf, contents, train_tfidf
from dept.batches.tokenise import Row
from dept.engine.memory import peak_memory_mib
from dept.engine.state import State
from dept.trial import TrialSpec
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.measure import of_scores
from flows.execution.reading import features_of
from flows.execution.record import close, fail, keep, manifest, outcome_of
from flows.execution.rows import TaskExample, examples_of, of_task, rows_of, tests_of
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
        shots, checks, tests = (rows_of(context, part, spec.adapter) for part in parts)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    began = time.monotonic()
    given = [
        inputs_of(context, lease, spec, part, rows) for part, rows in zip(parts, (shots, checks, tests), strict=True)
    ]
    model = fitted(spec, given[0], shots, given[1], checks)
    state = State(best_step=0, best=model.validation, seconds=time.monotonic() - began)
    state.tokens = state.padded = sum(len(row.source) for row in (*shots, *checks)) if spec.method == "probe" else 0
    outcome = outcome_of(context, spec, (*shots, *checks), state)
    outcome.peak_memory_mib, outcome.trainable = peak_memory_mib(), model.trainable
    outcome.extra["chosen"] = told_option(model.option)
    told = manifest(context, spec, *examples)
    if not keep(context, lease, claim, outcome, lambda folder: model.save(folder, **told)):
        return
    if tested:
        found = of_scores(context.tasks[spec.task], tested, tests, model.score(given[2]))
        outcome.test, outcome.cut_rows = found.metrics, outcome.cut_rows + found.cut
    if tested and not spec.refit:
        both = fitted(spec, _joined(given[0], given[1]), [*shots, *checks], given[1], checks, model.option)
        again = of_scores(context.tasks[spec.task], tested, tests, both.score(given[2]))
        outcome.extra["refit"] = again.metrics  # of the same choice, fitted on shots and validation rows together
    close(context, lease, [(claim, outcome)])


def inputs_of(
    context: RunContext, lease: Lease, spec: TrialSpec, examples: Sequence[TaskExample], rows: Sequence[Row]
) -> Any:
    """What a linear baseline reads of rows: hidden states, or the contents of their texts."""
    if spec.method == "probe":
        return features_of(context, rows, DEPTHS, lease.progress)
    return contents([example.text for _, example in examples], context.tasks[spec.task].template)


def fitted(
    spec: TrialSpec, given: Any, shots: Sequence[Row], checked: Any, checks: Sequence[Row], option: Option | None = None
) -> Probe | Tfidf:
    """A linear baseline of what `inputs_of` gave of shots and of the rows that validate; see `train_probe`."""
    train = train_probe if spec.method == "probe" else train_tfidf
    return train(given, shots, checked, checks, option)


def _joined(shots: Any, checks: Any) -> Any:
    return torch.cat([shots, checks]) if isinstance(shots, torch.Tensor) else [*shots, *checks]


def told_option(option: Option) -> str:
    """What was chosen, in words; a probe reads layers by their depth, which are numbers."""
    layers = "layers " if isinstance(option.what[0], float) else ""
    return f"{layers}{' and '.join(map(str, option.what))}, C {option.c:g}"
