"""Which adapters of a plan learn to answer as an ensemble does. Pure: ensembles are known by their own trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dept.config import RATES
from dept.trial import TrialOutcome, TrialSpec, goodness
from flows.planning.places import Rates
from flows.planning.plan import Plan
from flows.planning.trials import training_of

TRAINED = ("dept", "adept", "prompt-tuning")  # methods whose adapters can be trained on


def distilled_specs(plan: Plan, outcomes: Iterable[TrialOutcome], rates: Rates) -> list[TrialSpec]:
    """A trial for each ensemble; none where no member of it can be trained on (in-context, calibrated).

    Args:
        outcomes: of the plan's targets and ensembles that are finished.
        rates: peak learning rates that were chosen by search.
    """
    if not plan.distil:
        return []
    known = list(outcomes)
    by_sha = {one.adapter_sha256: one for one in known if one.spec.kind == "train" and one.adapter_sha256}
    found = []
    for ensemble in known:
        if ensemble.spec.kind == "ensemble":
            members = [by_sha[sha] for sha in ensemble.spec.sources if sha in by_sha]
            members.sort(key=lambda one: goodness(one.validation), reverse=True)
            pairs = [(one.spec, one.adapter_sha256) for one in members]
            found += _distilled(plan, ensemble.spec, ensemble.adapter_sha256, pairs, rates)
    return found


def planned_distilled(
    plan: Plan, ensembles: Sequence[TrialSpec], specs: Sequence[TrialSpec], rates: Rates
) -> list[TrialSpec]:
    """The same before anything is trained, for what it will cost.

    Args:
        ensembles: see `flows.planning.ensembles.planned`. specs: of the targets, their members among them.
    """
    if not plan.distil:
        return []
    by_key = {spec.fingerprint: spec for spec in specs}
    found = []
    for ensemble in ensembles:
        members = [(by_key[key], key) for key in ensemble.sources if key in by_key]
        found += _distilled(plan, ensemble, ensemble.fingerprint, members, rates)
    return found


def _distilled(
    plan: Plan, ensemble: TrialSpec, sha256: str, members: Sequence[tuple[TrialSpec, str]], rates: Rates
) -> list[TrialSpec]:
    """The trial that starts from the first member (the best) of the plan's shape, else from the first of its own.

    It learns at the rates that a search found for that member, else at those of the plan's transfer.
    """
    able = [(spec, sha) for spec, sha in members if spec.method in TRAINED]
    if not able:
        return []
    shape = plan.recipe(ensemble.task).adapter.shape
    best, start = next((one for one in able if one[0].adapter.shape == shape), able[0])
    training = training_of(plan, "transfer", ensemble.task, rates)
    found = {name: getattr(best.training, name) for name in RATES} if best.searched and best.training.steps else {}
    return [
        ensemble.model_copy(
            update={
                "kind": "train",
                "method": best.method,
                "start": "source",
                "source_sha256": start,
                "sources": (),
                "weights": (),
                "teacher_sha256": sha256,
                "seed": best.seed,
                "adapter": best.adapter,
                "training": training.model_copy(update={**found, "objective": "words"}),
                "calibration": best.calibration,
                "searched": None,
            }
        )
    ]
