"""Baselines on the same rows and budget: one after the other, since they change the backbone itself."""

from __future__ import annotations

from collections.abc import Sequence

from dept.backbones.shared import shared_backbone
from dept.baselines.train import Baseline, train_baseline
from dept.batches.tokenise import Row
from dept.engine.evaluate import Raw, answers_of, summarise
from dept.engine.memory import peak_memory_mib
from dept.engine.readout import Known, given, settle
from dept.readout import Readout
from dept.trial import LINEAR, OWN_LOSS, TrialSpec
from flows.execution.context import RunContext
from flows.execution.lease import Lease
from flows.execution.linear import linear_trial
from flows.execution.measure import of_scores
from flows.execution.progress import bar
from flows.execution.record import close, fail, keep, key_of, manifest, outcome_of, provenance
from flows.execution.rows import examples_of, neutral_rows, of_task, rows_of, tests_of
from flows.execution.testing import own_rows
from flows.planning.astray import unvalidated
from infra.errors import InputError
from registry.ledger import Claim


def baseline_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    """Train, test and record baselines. A kill loses the one that is under way, whose weights are nowhere else.

    Raises:
        LeaseLostError: another worker holds some of them.
        InputError: a full disk, or a store that does not answer.
    """
    if not claims:
        return
    with bar(f"Baselines: {len(claims)} trials", len(claims)) as shown:
        for claim in claims:
            if claim.spec.method in LINEAR:
                linear_trial(context, lease, claim)
            else:
                _one(context, lease, claim)
            shown.advance(1)


def _one(context: RunContext, lease: Lease, claim: Claim) -> None:
    spec = claim.spec
    lease.progress()
    try:
        examples = examples_of(context, spec)
        training, validation = (rows_of(context, part, spec.adapter) for part in examples)
        tested = tests_of(context, spec)
        rows = rows_of(context, of_task(spec.task, tested), spec.adapter)
        mine = of_task(spec.task, own_rows(context, spec)) if unvalidated(spec) else []
        own = rows_of(context, mine, spec.adapter)
        known = Known(validation, training, neutral_rows(context, spec))
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    with _trained(context, lease, claim, training, validation) as baseline:
        if baseline.state.failure is not None:
            fail(context, lease, claim, baseline.state.failure)
            return
        readout = _readout(spec, baseline, known, lease)
        outcome = outcome_of(context, spec, (*training, *validation), baseline.state)
        outcome.peak_memory_mib, outcome.trainable = peak_memory_mib(), baseline.trainable
        if baseline.rank is not None:
            outcome.extra["rank"] = baseline.rank
        told = manifest(context, spec, *examples) | {"readout": None if readout is None else readout.body}
        if not keep(context, lease, claim, outcome, lambda folder: baseline.save(folder, **told)):
            return

        def answers(asked: Sequence[Row]) -> list[list[float]]:
            return answers_of([readout], [(0, row) for row in asked], Raw(baseline.score(asked, lease.progress)))

        if own:
            outcome.extra[OWN_LOSS] = summarise(answers(own), own)["loss"]
        if tested:
            found = of_scores(context.tasks[spec.task], tested, rows, answers(rows))
            outcome.test, outcome.cut_rows = found.metrics, outcome.cut_rows + found.cut
        close(context, lease, [(claim, outcome)])


def _trained(
    context: RunContext, lease: Lease, claim: Claim, training: Sequence[Row], validation: Sequence[Row]
) -> Baseline:
    """Train it, with its curves on MLflow's pages meanwhile."""
    spec, key = claim.spec, claim.fingerprint
    backbone = shared_backbone(context.backbone_name, context.dtype, context.device)
    live = context.tracker.live(context.parent_run, {key: (spec, claim.attempt)}, provenance(context))
    try:
        baseline = train_baseline(
            spec.method,
            backbone,
            training,
            validation,
            spec.training,
            spec.seed,
            budget=spec.adapter.trainable(backbone.d),
            on_tokens=lease.progress,
            on_point=lambda point: live.point(key, *point[1:]),
        )
        if (begun := live.hand_over(key)) is not None:
            context.begun[key_of(claim)] = begun
    finally:
        live.close()
    return baseline


def _readout(spec: TrialSpec, baseline: Baseline, known: Known, lease: Lease) -> Readout | None:
    """How its scores become answers, by the rule of adapters, or as its search has chosen; noted in its state."""
    if spec.readout is not None and spec.calibration != "contextual":
        readout, baseline.state.readout = given(spec.readout, heads=False)
        return readout
    if spec.calibration == "none":
        return None

    def score(rows: Sequence[Row]) -> Raw:
        return Raw(baseline.score(rows, lease.progress))

    found = settle(known, spec.calibration, score)
    if found is None:
        return None
    baseline.state.readout, baseline.state.best = found.told, found.best or baseline.state.best
    return None if found.readout.plain else found.readout
