"""How target adapters start: which trials a plan needs to find that out, and what their outcomes choose. Pure.

What is tried are trials like any other, on shots and validation rows of the draw itself, so a choice follows from the
outcomes in the ledger alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dept.config import TrainConfig
from dept.trial import MULTITASK, Init, TrialOutcome, TrialSpec, goodness
from flows.planning.groups import Strategy
from flows.planning.places import ALL_SOURCES, Draw, Origin, to_start
from flows.planning.plan import Plan
from flows.planning.trials import Inputs, common, drawn

Sources = Mapping[str, str]  # name of a source, or `multitask`, -> sha256 of its adapter; none of failed trials


@dataclass
class Starts:
    """For each draw and strategy the adapter that it starts from, or why there is none."""

    origins: dict[tuple[Draw, Strategy], Origin] = field(default_factory=dict)
    missing: dict[tuple[Draw, Strategy], str] = field(default_factory=dict)


def start_specs(plan: Plan, inputs: Inputs, sources: Sources) -> list[TrialSpec]:
    """The probes and mixtures that the strategies of a plan need, each once."""
    specs = (spec for draw, strategy in to_start(plan) for spec in _tried(plan, inputs, sources, draw, strategy) or ())
    return list({spec.fingerprint: spec for spec in specs}.values())


def choose(plan: Plan, inputs: Inputs, sources: Sources, outcomes: Mapping[str, TrialOutcome]) -> Starts:
    """What each draw starts from, by strategy.

    Args:
        outcomes: of the trials of `start_specs`, by fingerprint; failed ones are not there.
    """
    starts = Starts()
    for draw, strategy in to_start(plan):
        found = _chosen(plan, inputs, sources, outcomes, draw, strategy)
        if isinstance(found, Origin):
            starts.origins[draw, strategy] = found
        else:
            starts.missing[draw, strategy] = found
    return starts


def _tried(plan: Plan, inputs: Inputs, sources: Sources, draw: Draw, strategy: Strategy) -> list[TrialSpec] | None:
    """What has to be tried for a strategy on a draw: nothing where there is no choice; None where a source failed."""
    if strategy not in ALL_SOURCES:
        return []
    if any(name not in sources for name in plan.sources):
        return None
    if strategy == "mixture":
        return [_mixture(plan, inputs, sources, draw)]
    if len(plan.sources) == 1:
        return []
    if strategy == "similar":
        return [_likeness(plan, inputs, sources, draw)]
    return [_probe(plan, inputs, draw, name, sources[name]) for name in plan.sources]


def _chosen(
    plan: Plan,
    inputs: Inputs,
    sources: Sources,
    outcomes: Mapping[str, TrialOutcome],
    draw: Draw,
    strategy: Strategy,
) -> Origin | str:
    """The start of a draw, or why there is none."""
    name = strategy if strategy == MULTITASK else strategy.partition(":")[2]
    needed = [name] if name else plan.sources
    if failed := [source for source in needed if source not in sources]:
        return f"the source trial of {', '.join(failed)} failed"
    if name:
        return Origin(name, sources[name])
    specs = _tried(plan, inputs, sources, draw, strategy)
    assert specs is not None
    found = [outcomes.get(spec.fingerprint) for spec in specs]
    if strategy == "mixture":
        (mixture,) = found
        if mixture is None:
            return "its mixture of the sources failed"
        shares = zip(plan.sources, mixture.extra["weights"], strict=True)
        return Origin(" + ".join(f"{source} {weight:.2f}" for source, weight in shares), mixture.adapter_sha256)
    if not specs:
        return Origin(plan.sources[0], sources[plan.sources[0]])
    if strategy == "similar":
        (probe,) = found
        if probe is None:
            return "its probe failed"
        return _best(plan.sources, sources, probe.extra["similarity"])
    if not any(found):
        return "every source failed on its shots"
    return _best(plan.sources, sources, [goodness(probe.validation if probe else {}) for probe in found])


def _best(names: Sequence[str], sources: Sources, ranks: Sequence[float] | Sequence[tuple[float, float]]) -> Origin:
    """The source of the highest rank, of equals the first."""
    name = names[max(range(len(names)), key=ranks.__getitem__)]
    return Origin(name, sources[name])


def _probe(plan: Plan, inputs: Inputs, draw: Draw, name: str, sha256: str) -> TrialSpec:
    """A source's adapter tried on a draw for some steps, and validated; no step at all tries it as it is."""
    return _trial(
        plan, inputs, draw, "best-source", _few(plan.transfer_training, plan.probe_steps), name, source_sha256=sha256
    )


def _likeness(plan: Plan, inputs: Inputs, sources: Sources, draw: Draw) -> TrialSpec:
    """SPoT (https://arxiv.org/abs/2110.07904): the source whose prompt lies nearest to the target's after a few steps.

    Prompts are compared by the cosine of their mean over tokens; the last step counts, so nothing is validated.
    """
    few = _few(plan.scratch_training, max(1, plan.probe_steps))
    spec = _trial(plan, inputs, draw, "similar", few)
    return spec.model_copy(
        update={"start": "text", "sources": tuple(sources[name] for name in plan.sources), "validation_rows": 0}
    )


def _mixture(plan: Plan, inputs: Inputs, sources: Sources, draw: Draw) -> TrialSpec:
    """Convex weights over the sources, learned on the draw's shots (ATTEMPT, https://arxiv.org/abs/2205.11961)."""
    steps = TrainConfig(steps=max(1, plan.transfer_training.steps))  # of the recipe, only the steps play a part
    spec = _trial(plan, inputs, draw, "mixture", steps, " + ".join(plan.sources))
    return spec.model_copy(
        update={
            "kind": "mixture",
            "sources": tuple(sources[name] for name in plan.sources),
            "validation_rows": 0,
            "seed": draw.seed,
        }
    )


def _trial(
    plan: Plan,
    inputs: Inputs,
    draw: Draw,
    init: Init,
    training: TrainConfig,
    source_task: str | None = None,
    source_sha256: str | None = None,
) -> TrialSpec:
    fields = common(plan, inputs, draw.target) | {"test_rows": 0, "calibration": "none"}
    return TrialSpec(
        kind="probe",
        role="search",
        init=init,
        start="source",
        source_task=source_task,
        source_sha256=source_sha256,
        training=training,
        adapter=inputs.bare(plan.adapter, [draw.target]),
        **drawn(plan, inputs, draw),
        **fields,
    )


def _few(recipe: TrainConfig, steps: int) -> TrainConfig:
    if not steps:
        return TrainConfig(steps=0)  # nothing else of the recipe plays a part
    return recipe.model_copy(update={"steps": steps, "eval_every": steps, "warmup": 0.0})
