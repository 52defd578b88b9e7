"""Which adapters of a plan answer together. Pure: members are known by the outcomes of their own trials."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dept.config import TrainConfig
from dept.trial import STACKED, TrialOutcome, TrialSpec, goodness
from flows.planning.plan import Plan
from tasks.spec import Task

T = TypeVar("T")


def ensemble_specs(plan: Plan, tasks: Mapping[str, Task], outcomes: Iterable[TrialOutcome]) -> list[TrialSpec]:
    """A trial for each group of as many adapters as the plan asks for.

    Of seeds: those of one target, k and variant, `ensemble` at a time in the order of their seeds; what is left over
    makes none. Of starts: the best of one draw by validation loss.

    Args:
        outcomes: of the plan's target trials that are finished.
    """
    if not plan.ensemble:
        return []
    finished = [outcome for outcome in outcomes if outcome.adapter_sha256 and may_answer(tasks, outcome.spec)]
    found: list[TrialSpec] = []
    for members in _grouped(finished, lambda one: _group(plan, one.spec)):
        apart = list({one.adapter_sha256: one for one in members}.values())
        if plan.ensemble_of == "starts":
            apart.sort(key=lambda one: goodness(one.validation), reverse=True)
            apart = apart[: plan.ensemble]
        else:
            apart.sort(key=lambda one: one.spec.seed)
        for at in range(0, len(apart) - plan.ensemble + 1, plan.ensemble):
            together = apart[at : at + plan.ensemble]
            shas = tuple(one.adapter_sha256 for one in together)
            found.append(ensemble_spec(plan, [one.spec for one in together], shas))
    return found


def planned(plan: Plan, tasks: Mapping[str, Task], specs: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The same before anything is trained, for what it will cost; which adapters these are is not known yet."""
    if not plan.ensemble:
        return []
    found = []
    answering = [spec for spec in specs if may_answer(tasks, spec)]
    for members in _grouped(answering, lambda spec: _group(plan, spec)):
        whole = len(members) // plan.ensemble if plan.ensemble_of == "seeds" else len(members) >= plan.ensemble
        for at in range(whole):
            together = members[at * plan.ensemble : (at + 1) * plan.ensemble]
            found.append(ensemble_spec(plan, together, [one.fingerprint for one in together]))
    return found


def may_answer(tasks: Mapping[str, Task], spec: TrialSpec) -> bool:
    """Whether an adapter takes part: a target's, trained or calibrated on a draw, that chooses among labels."""
    drawn = spec.role == "target" and spec.kind == "train" and spec.init != "untrained" and not _as_it_is(spec)
    scored = spec.task in tasks and tasks[spec.task].scored
    return drawn and scored and spec.method in STACKED and bool(spec.test_rows)


def ensemble_spec(plan: Plan, members: Sequence[TrialSpec], shas: Sequence[str]) -> TrialSpec:
    """The trial in which these adapters answer together, on the test rows of each."""
    first, several = members[0], plan.ensemble_of == "starts"
    own: dict[str, Any] = {"method": "dept", "init": "ensemble"} if several else {}
    alike = {"method": first.method, "init": first.init, "source_task": first.source_task, "searched": None}
    return together(members, shas, **(alike | own))


def together(members: Sequence[TrialSpec], shas: Sequence[str], **changes: Any) -> TrialSpec:
    """A trial in which adapters of one draw or task answer as one; `changes`: fields that say what it is for."""
    return members[0].model_copy(
        update={
            "kind": "ensemble",
            "start": "source",
            "source_task": None,
            "source_sha256": None,
            "sources": tuple(shas),
            "weights": (),
            "training": TrainConfig(steps=0),
            "calibration": "none",  # each member's own
            "readout": None,
            "refit": any(one.refit for one in members),  # then rows that validate one have trained another
            **changes,
        }
    )


def _as_it_is(spec: TrialSpec) -> bool:
    return spec.init == "source" and spec.training.steps == 0


def _group(plan: Plan, spec: TrialSpec) -> Hashable:
    own = spec.seed if plan.ensemble_of == "starts" else spec.variant
    return spec.task, spec.shots, own


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())
