"""From a plan to its trials. Pure, as the plan is."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dept.config import AdapterConfig, Dtype, PictureMap, TestPart, TrainConfig
from dept.trial import LINEAR, MULTITASK, Init, Method, Start, TrialSpec
from flows.planning.defaults import RateKey
from flows.planning.places import (
    Draw,
    Origin,
    Origins,
    Place,
    Rate,
    Rates,
    draws_of_search,
    grid,
    needed_sources,
    places,
    rate_key,
    searched_strategy,
    shown_beside,
    transferring,
)
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.draws import reserve_of
from tasks.spec import Task
from tasks.splits import Splits


@dataclass(frozen=True)
class Inputs:
    """What trials stand on: tasks and splits by name; of the backbone the sha256 of weights and tokenizer, the width d
    of its embeddings, the number type of its frozen weights, the tokens that it can read (None: no end), what of
    its arithmetic has changed (`TrialSpec.computed`), the sha256 of its chat template where a task asks for it, and
    whether words can tell labels; else heads do, of sources as well. encoders: maps whose picture encoder was looked
    up, by its name.
    """

    tasks: Mapping[str, Task]
    splits: Mapping[str, Splits]
    backbone_id: str
    d: int
    dtype: Dtype | None = None
    room: int | None = None
    computed: str | None = None
    chat: str | None = None
    tells_words: bool = True
    encoders: Mapping[str, PictureMap] = field(default_factory=dict)

    def chat_of(self, names: Sequence[str]) -> str | None:
        """`TrialSpec.chat` of a trial on the rows of these tasks."""
        return self.chat if any(self.tasks[name].chat for name in names) else None

    def shape(self, adapter: AdapterConfig, method: str, task: str) -> AdapterConfig:
        """The shape that a method has on a task where dept has `adapter`."""
        adapter = self.seeing(adapter, [task])
        found = adapter.of_method(method, self.d, self.room)
        return self.told(found, adapter) if method in ("dept", "adept", "prompt-tuning") else found

    def bare(self, adapter: AdapterConfig, names: Sequence[str]) -> AdapterConfig:
        """The shape without a head, where words can tell labels: of sources, and of what is tried for a start.

        Args:
            names: of the tasks whose rows it reads.
        """
        return self.told(self.seeing(adapter, names).headless, adapter)

    def told(self, shape: AdapterConfig, asked: AdapterConfig) -> AdapterConfig:
        """The shape; where no words can tell labels with a head over the layers that are asked for."""
        return shape if self.tells_words else shape.model_copy(update={"answers": "head", "layers": asked.layers})

    def seeing(self, adapter: AdapterConfig, names: Sequence[str]) -> AdapterConfig:
        """An adapter for the rows of these tasks: with a map of pictures only where there are some to see."""
        if not any(self.tasks[name].sees for name in names):
            return adapter.blind
        sight = adapter.pictures
        found = self.encoders.get(sight.encoder) if sight is not None and sight.encoder else None
        if sight is None or found is None:
            return adapter
        known = {"encoder_id": found.encoder_id, "width": found.width}
        return adapter.model_copy(update={"pictures": sight.model_copy(update=known)})


def source_specs(plan: Plan, inputs: Inputs) -> list[TrialSpec]:
    """One trial per source that is needed, with the first seed; and one on all of them for the strategy `multitask`."""
    single = {name: _source(plan, inputs, name) for name in plan.sources}
    specs = [single[name] for name in needed_sources(plan)]
    if MULTITASK in transferring(plan):
        steps = plan.source_training.steps * len(single)  # as many rows of each source as its own adapter saw
        together = single[plan.sources[0]].model_copy(
            update={
                "task": MULTITASK,
                "task_version": 1,
                "members": tuple(plan.sources),
                "data_hash": together_hash(inputs.tasks, inputs.splits, plan.sources),
                "training": plan.source_training.model_copy(update={"steps": steps}),
                "adapter": inputs.bare(plan.adapter, plan.sources),
                "train_rows": plan.source_rows,
                "validation_rows": plan.source_validation_rows,
                "test_rows": 0,
                "chat": inputs.chat_of(plan.sources),
                "calibration": "none",  # it answers for no task of its own
            }
        )
        specs.append(together)
    return specs


def together_hash(tasks: Mapping[str, Task], splits: Mapping[str, Splits], names: Iterable[str]) -> str:
    """sha256 (hex) of what a multitask adapter learns from: its sources, in order, with the hashes of their rows."""
    lines = (f"{name} {tasks[name].version} {splits[name].data_hash}" for name in names)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _source(plan: Plan, inputs: Inputs, name: str) -> TrialSpec:
    rows = inputs.splits[name]
    return TrialSpec(
        role="source",
        init="scratch",
        shots=None,
        seed=plan.seeds[0],
        training=plan.source_training,
        train_rows=None if plan.source_rows is None else min(plan.source_rows, len(rows.train)),
        validation_rows=min(plan.source_validation_rows, len(rows.validation)),
        adapter=inputs.bare(plan.adapter, [name]),
        **common(plan, inputs, name),
    )


def search_specs(
    plan: Plan, inputs: Inputs, origins: Origins, missing: Container[tuple[Draw, str]] = ()
) -> dict[tuple[RateKey, Rate], list[TrialSpec]]:
    """Trials that choose learning rates, by method and rates; only where a method has several to choose from.

    Args:
        missing: draws and strategies that have no start; they are left out.
    """
    found: dict[tuple[RateKey, Rate], list[TrialSpec]] = {}
    for key in dict.fromkeys((*plan.rates, *plan.low_rank_rates)):
        strategy = searched_strategy(plan) if key == "transfer" else "scratch"
        rates = grid(plan, key, plan.transfer_training if key == "transfer" else plan.scratch_training)
        if len(rates) < 2 or strategy is None or (key not in plan.methods and key != "transfer"):
            continue
        method: Method = "dept" if key == "transfer" else key
        for rate in rates:
            found[key, rate] = [
                _target(plan, inputs, (draw, method, strategy), origins, {(key, ""): rate}).model_copy(
                    update={"role": "search", "test_rows": 0}
                )
                for draw in draws_of_search(plan)
                if (draw, strategy) not in missing
            ]
    return found


def target_specs(
    plan: Plan, inputs: Inputs, origins: Origins, rates: Rates | None = None, missing: Container[Place] = ()
) -> list[TrialSpec]:
    """Per target: one untrained trial, then for each draw of shots every strategy and every baseline.

    Args:
        origins: for each draw and each strategy but scratch, the adapter that it starts from.
        rates: peak learning rates that were chosen by search.
        missing: places that have no start or no rates; they are left out.

    Raises:
        InputError: a strategy whose origin is not given.
    """
    by_target: dict[str, list[Place]] = {name: [] for name in plan.targets}
    for place in (*places(plan), *shown_beside(plan, inputs.tasks)):
        by_target[place[0].target].append(place)
    specs = []
    for name, mine in by_target.items():
        if not inputs.tells_words:  # an untrained head tells nothing
            specs += [_target(plan, inputs, place, origins, rates or {}) for place in mine if place not in missing]
            continue
        # Nothing is drawn or trained, so neither shots nor seed may make two trials of it.
        untrained = TrialSpec(
            role="target",
            init="untrained",
            shots=None,
            seed=0,
            training=TrainConfig(steps=0),
            adapter=plan.recipe(name).adapter.headless.blind,
            **common(plan, inputs, name, drawn=False),
        )
        specs.append(untrained)
        seen = inputs.seeing(plan.recipe(name).adapter.headless, [name])
        for source, origin in zero_shot_origins(plan, origins, name).items():
            start: dict[str, Any] = {"source_task": source, "source_sha256": origin.sha256, "start": "source"}
            start["adapter"] = seen
            specs.append(untrained.model_copy(update={"init": "source", **start}))
        specs += [_target(plan, inputs, place, origins, rates or {}) for place in mine if place not in missing]
    return specs


def zero_shot_origins(plan: Plan, origins: Origins, target: str) -> dict[str, Origin]:
    """The sources that are tested on a target as they are, by name, where the plan asks for it."""
    fixed = [strategy for strategy in plan.strategies if strategy.startswith("source:")] if plan.zero_shot else []
    first = Draw(target, plan.counted[0], plan.seeds[0])
    found = [origins.get((first, strategy)) for strategy in fixed]
    return {origin.task: origin for origin in found if origin is not None}


def _target(plan: Plan, inputs: Inputs, place: Place, origins: Origins, rates: Rates) -> TrialSpec:
    draw, method, strategy = place
    origin = None
    if strategy != "scratch":
        origin = origins.get((draw, strategy))
        if origin is None:
            raise InputError(
                f"target {draw.target}, k={draw.shots}, seed={draw.seed}: no source adapter is known for {strategy}; "
                "train the sources first"
            )
    init: Init = strategy.partition(":")[0]  # type: ignore[assignment]
    start: Start = "shots" if method in ("in-context", *LINEAR) else "text"
    if origin is not None:
        start = "prompt" if strategy == "prompt-only" else "source"
    return TrialSpec(
        role="target",
        method=method,
        init=init,
        start=start,
        training=training_of(plan, rate_key(method, strategy), draw.target, rates),
        source_task=origin.task if origin else None,
        source_sha256=origin.sha256 if origin else None,
        adapter=(shape := inputs.shape(plan.recipe(draw.target).adapter, method, draw.target)),
        unseen=unseen(plan, inputs, draw, method in LINEAR or bool(shape.reads)),
        **drawn(plan, inputs, draw),
        **common(plan, inputs, draw.target),
    )


def unseen(plan: Plan, inputs: Inputs, draw: Draw, reads: bool) -> str | None:
    """The rule for labels without a row (`dept.baselines.linear.fit`), where hidden states are read and one may be."""
    labels = len(inputs.tasks[draw.target].labels)
    return "mean row" if reads and draw.shots and not plan.per_class and labels > draw.shots else None


def training_of(plan: Plan, key: RateKey | None, target: str, rates: Rates) -> TrainConfig:
    """The recipe of a method with the rates chosen for it, or the plan's only ones."""
    if key is None:
        return TrainConfig(steps=0)
    recipe = plan.recipe(target)
    training = recipe.transfer_training if key == "transfer" else recipe.scratch_training
    chosen = rates.get((key, target)) or rates.get((key, "")) or grid(plan, key, training)[0]
    return training.model_copy(update={"lr_prompt": chosen[0], "lr_low_rank": chosen[1]})


def drawn(plan: Plan, inputs: Inputs, draw: Draw) -> dict[str, Any]:
    """The fields of a spec that say which rows of a target it learns from and is validated on (None: k of the draw)."""
    most, there = None, len(inputs.splits[draw.target].validation)
    if draw.shots is None:
        most = min(plan.source_validation_rows, there)
    elif plan.validation == "full":
        most = there
    return {"shots": draw.shots, "per_class": plan.per_class, "seed": draw.seed, "validation_rows": most}


def common(plan: Plan, inputs: Inputs, name: str, drawn: bool = True) -> dict[str, Any]:
    """The fields of a spec that every trial of a task has; not `drawn`: content-free inputs alone may calibrate it."""
    calibrated = inputs.tasks[name].scored and (drawn or plan.calibration == "contextual")
    part = plan.test_split if name in plan.targets else "test"
    return {
        "backbone": plan.backbone,
        "backbone_id": inputs.backbone_id,
        "dtype": inputs.dtype,
        "computed": inputs.computed,
        "chat": inputs.chat_of([name]),
        "task": name,
        "task_version": inputs.tasks[name].version,
        "data_hash": inputs.splits[name].data_hash,
        "prompt_text": plan.recipe(name).prompt_text,
        "calibration": plan.calibration if calibrated else "none",
        "test_rows": min(plan.test_rows, _testable(name, inputs.splits[name], part)),  # more than there are is all
        "tested_on": part,
    }


def _testable(name: str, splits: Splits, part: TestPart) -> int:
    rows = splits.test if part == "test" else reserve_of(splits)
    if not rows:
        raise InputError(f"test_split: reserve: task {name} has no rows in reserve. Remedy: test_split: test")
    return len(rows)
