"""Which adapter of a run stands for champion of a task. Pure.

Scores of different draws are not compared: of different numbers of shots the largest counts, for it has seen the most;
of different variants (method, strategy) the one of the lowest validation loss on the mean of its draws, which are the
same for all of them; of the draws of that variant the one of the lowest validation loss. Where a plan lets the draws of
a variant answer together, they stand in their place: their loss is at most the mean of theirs. Whether it takes over is
decided afterwards, by a paired test against the champion on rows that nobody has seen (`compare`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence

from dept.trial import LINEAR, STACKED, TOGETHER, Kind, TrialOutcome

KINDS: tuple[Kind, ...] = ("train", "ensemble")  # of trials whose adapter can stand


def candidates(outcomes: Iterable[TrialOutcome], tasks: Container[str]) -> dict[str, TrialOutcome]:
    """The candidate of each task, by name; tasks of which no adapter can stand are not there.

    Args:
        outcomes: of finished trials. LoRA and full change the backbone, a multitask adapter answers for no task of its
            own and an untrained one is nobody's work: they do not stand.
    """
    by_task: dict[str, list[TrialOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.spec.task in tasks and may_stand(outcome):
            by_task[outcome.spec.task].append(outcome)
    return {name: _best(found) for name, found in by_task.items()}


def may_stand(outcome: TrialOutcome) -> bool:
    """Whether an adapter can become champion of its task without a person's word.

    A linear baseline only where `auto` chose it, or where it renews a champion that is one.
    """
    spec = outcome.spec
    wanted = spec.method not in LINEAR or spec.init == "auto" or spec.role == "challenger"
    return wanted and can_answer(outcome)


def can_answer(outcome: TrialOutcome) -> bool:
    """Whether an adapter, or a linear baseline, can answer for its task: it was trained, validated, can be served."""
    spec = outcome.spec
    trained = spec.kind in KINDS and spec.role in ("source", "target", "challenger", "champion") and not spec.members
    told = spec.method == "calibrated" or (spec.method == "in-context" and spec.start == "shots") or spec.adapter.reads
    # A search may find that the prompt's text does best, read in a way that was chosen.
    read = spec.readout is not None or (spec.init != "untrained" and bool(outcome.extra.get("readout")))
    made = spec.training.steps > 0 or bool(told) or read or spec.kind == "ensemble"
    works = (spec.method in STACKED and made) or spec.method in LINEAR
    return trained and works and bool(outcome.adapter_key) and bool(outcome.validation)


def _best(outcomes: Sequence[TrialOutcome]) -> TrialOutcome:
    most = max(_size(outcome) for outcome in outcomes)
    largest = [outcome for outcome in outcomes if _size(outcome) == most]
    variants: dict[str, list[TrialOutcome]] = defaultdict(list)
    together: dict[str, list[TrialOutcome]] = defaultdict(list)
    for outcome in largest:
        own = outcome.spec.variant.removeprefix(TOGETHER)
        (variants if own == outcome.spec.variant else together)[own].append(outcome)
    best = min(
        variants.values() or together.values(), key=lambda part: (sum(map(_loss, part)) / len(part), _taught(part[0]))
    )
    best = together.get(best[0].spec.variant.removeprefix(TOGETHER), best)
    return min(best, key=lambda one: (_loss(one), _taught(one), one.spec.seed, one.spec.fingerprint))


def _taught(outcome: TrialOutcome) -> bool:
    """Whether it learned the answers of others: then it may have their loss, for want of rows, and is no better."""
    return outcome.spec.teacher_sha256 is not None


def _size(outcome: TrialOutcome) -> float:
    return math.inf if outcome.spec.shots is None else outcome.spec.shots


def _loss(outcome: TrialOutcome) -> float:
    """Validation loss, nats; infinite where there is none or it is not finite."""
    loss = outcome.validation.get("loss", math.inf)
    return loss if math.isfinite(loss) else math.inf
