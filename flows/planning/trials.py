"""From a plan to its trials. Pure, as the plan is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dept.config import TrainConfig
from dept.trial import MULTITASK, Dtype, Init, Method, Start, TrialSpec
from flows.planning.plan import Plan, RateKey
from infra.errors import InputError
from tasks.spec import Task
from tasks.splits import Splits


@dataclass(frozen=True)
class Cell:
    """One draw of a target's shots; shots None: all training rows."""

    target: str
    shots: int | None
    seed: int


@dataclass(frozen=True)
class Origin:
    """The adapter that a target starts from: the source's name (several: joined by +) and the adapter's sha256."""

    task: str
    sha256: str


Origins = Mapping[tuple[Cell, str], Origin]  # by cell and strategy
SEARCH_SEED = 2**31  # the first; above those that a plan may name
Rate = tuple[float, float]  # peak learning rates of P, and of A and B
Rates = Mapping[tuple[RateKey, str], Rate]  # by method and target; the target is "" where one choice is for all


@dataclass(frozen=True)
class Ground:
    """What trials stand on: tasks and rows by name, the backbone's weights id, its width d and number type."""

    tasks: Mapping[str, Task]
    splits: Mapping[str, Splits]
    backbone_id: str
    d: int
    dtype: Dtype | None = None


def cells(plan: Plan) -> list[Cell]:
    """Every draw of shots of a plan."""
    return [Cell(target, k, seed) for target in plan.targets for k in plan.counted for seed in plan.seeds]


def cells_to_start(plan: Plan) -> list[Cell]:
    """Draws for which a start has to be chosen: those of the targets, and of the search where it is transfer's too."""
    searched = len(grid(plan, "transfer", plan.transfer_training)) > 1
    return [*cells(plan), *(search_cells(plan) if searched else [])]


def search_cells(plan: Plan) -> list[Cell]:
    """Draws on which learning rates are chosen: the most shots, and seeds that no other trial uses."""
    most = None if None in plan.counted else max(filter(None, plan.counted))
    return [Cell(target, most, SEARCH_SEED + i) for target in plan.targets for i in range(plan.search_draws)]


def source_specs(plan: Plan, ground: Ground) -> list[TrialSpec]:
    """One trial per source task, with the first seed; and one on all of them where the plan asks for `multitask`."""
    specs = [
        TrialSpec(
            role="source",
            init="scratch",
            shots=None,
            seed=plan.seeds[0],
            training=plan.source_training,
            train_rows=None if plan.source_rows is None else min(plan.source_rows, len(ground.splits[name].train)),
            validation_rows=min(plan.source_validation_rows, len(ground.splits[name].validation)),
            adapter=plan.adapter,
            **_common(plan, ground, name),
        )
        for name in plan.sources
    ]
    if MULTITASK in plan.strategies:
        hashes = "\n".join(f"{spec.task} {spec.task_version} {spec.data_hash}" for spec in specs)
        steps = plan.source_training.steps * len(specs)  # as many rows of each source as its own adapter saw
        together = specs[0].model_copy(
            update={
                "task": MULTITASK,
                "task_version": 1,
                "members": tuple(plan.sources),
                "data_hash": hashlib.sha256(hashes.encode()).hexdigest(),
                "training": plan.source_training.model_copy(update={"steps": steps}),
                "train_rows": plan.source_rows,
                "validation_rows": plan.source_validation_rows,
                "test_rows": 0,
            }
        )
        specs.append(together)
    return specs


def grid(plan: Plan, key: RateKey, recipe: TrainConfig) -> list[Rate]:
    """The rates of a method that a plan chooses from; those of its recipe where it names none."""
    share = recipe.lr_low_rank / recipe.lr_prompt if recipe.lr_prompt else 0.0
    prompts = plan.rates.get(key) or [recipe.lr_prompt]
    pairs = plan.low_rank_rates.get(key)
    if pairs:
        return [(prompt, pair) for prompt in prompts for pair in pairs]
    return [(prompt, prompt * share) for prompt in prompts] if key in plan.rates else [_rates_of(recipe)]


def search_specs(plan: Plan, ground: Ground, origins: Origins) -> dict[tuple[RateKey, Rate], list[TrialSpec]]:
    """Trials that choose learning rates, by method and rates; only where a method has several to choose from."""
    found: dict[tuple[RateKey, Rate], list[TrialSpec]] = {}
    for key in dict.fromkeys((*plan.rates, *plan.low_rank_rates)):
        strategy = _searched_strategy(plan) if key == "transfer" else "scratch"
        rates = grid(plan, key, plan.transfer_training if key == "transfer" else plan.scratch_training)
        if len(rates) < 2 or strategy is None or (key not in plan.methods and key != "transfer"):
            continue
        method: Method = "dept" if key == "transfer" else key
        for rate in rates:
            found[key, rate] = [
                _target(plan, ground, cell, method, strategy, origins, {(key, ""): rate}).model_copy(
                    update={"role": "search", "test_rows": 0}
                )
                for cell in search_cells(plan)
            ]
    return found


def target_specs(plan: Plan, ground: Ground, origins: Origins, rates: Rates | None = None) -> list[TrialSpec]:
    """Per target: one untrained trial, then for each draw of shots every strategy and every rival method.

    Args:
        origins: for each cell and each strategy but scratch, the adapter that it starts from.
        rates: peak learning rates that were chosen by search.

    Raises:
        InputError: a strategy whose origin is not given.
    """
    specs = []
    for name in plan.targets:
        # Nothing is drawn or trained, so neither shots nor seed may make two trials of it.
        untrained = TrainConfig(steps=0)
        specs.append(
            TrialSpec(
                role="target",
                init="untrained",
                shots=None,
                seed=0,
                training=untrained,
                adapter=plan.recipe(name).adapter,
                **_common(plan, ground, name),
            )
        )
        for source, origin in zero_shot_origins(plan, origins, name).items():
            specs.append(
                specs[-1].model_copy(
                    update={
                        "init": "source",
                        "start": "source",
                        "source_task": source,
                        "source_sha256": origin.sha256,
                        "seed": 0,
                    }
                )
            )
        for cell in (cell for cell in cells(plan) if cell.target == name):
            for method in plan.methods:
                for strategy in plan.strategies if method == "dept" else ["scratch"]:
                    specs.append(_target(plan, ground, cell, method, strategy, origins, rates or {}))
    return specs


def zero_shot_origins(plan: Plan, origins: Origins, target: str) -> dict[str, Origin]:
    """The sources that are tested on a target as they are, by name, where the plan asks for it."""
    fixed = [strategy for strategy in plan.strategies if strategy.startswith("source:")] if plan.zero_shot else []
    first = cells(plan)[0]
    return {
        origins[cell, strategy].task: origins[cell, strategy]
        for strategy in fixed
        for cell in [Cell(target, first.shots, first.seed)]
    }


def transferring(plan: Plan) -> list[str]:
    """The strategies of a plan that need a source."""
    return [strategy for strategy in plan.strategies if strategy != "scratch"] if "dept" in plan.methods else []


def _searched_strategy(plan: Plan) -> str | None:
    wanted: Iterable[str] = transferring(plan)
    return next((strategy for strategy in ("best-source", *wanted) if strategy in transferring(plan)), None)


def _target(
    plan: Plan, ground: Ground, cell: Cell, method: Method, strategy: str, origins: Origins, rates: Rates
) -> TrialSpec:
    origin = None
    if strategy != "scratch":
        origin = origins.get((cell, strategy))
        if origin is None:
            raise InputError(
                f"target {cell.target}, k={cell.shots}, seed={cell.seed}: no source adapter is known for {strategy}; "
                "train the sources first"
            )
    key: RateKey | None = "transfer" if origin else None if method == "in-context" else method
    init: Init = strategy.partition(":")[0]  # type: ignore[assignment]
    shape = plan.recipe(cell.target).adapter
    every = cell.shots is None
    return TrialSpec(
        role="target",
        method=method,
        init=init,
        start=_start(method, init, origin is not None),
        shots=cell.shots,
        per_class=plan.per_class,
        seed=cell.seed,
        training=_training(plan, key, cell.target, rates),
        source_task=origin.task if origin else None,
        source_sha256=origin.sha256 if origin else None,
        adapter=shape.as_prompt_tuning(ground.d) if method == "prompt-tuning" else shape,
        validation_rows=min(plan.source_validation_rows, len(ground.splits[cell.target].validation)) if every else None,
        **_common(plan, ground, cell.target),
    )


def _start(method: Method, init: Init, from_other: bool) -> Start:
    """What the first P, A and B are made of."""
    if from_other:
        return "prompt" if init == "prompt-only" else "source"
    return "shots" if method == "in-context" else "text"


def _training(plan: Plan, key: RateKey | None, target: str, rates: Rates) -> TrainConfig:
    """The recipe of a method with the rates chosen for it, or the plan's only ones."""
    if key is None:
        return TrainConfig(steps=0)  # in-context: the shots are read, not learned
    recipe = plan.recipe(target)
    training = recipe.transfer_training if key == "transfer" else recipe.scratch_training
    chosen = rates.get((key, target)) or rates.get((key, "")) or grid(plan, key, training)[0]
    return training.model_copy(update={"lr_prompt": chosen[0], "lr_low_rank": chosen[1]})


def _rates_of(recipe: TrainConfig) -> Rate:
    return recipe.lr_prompt, recipe.lr_low_rank


def _common(plan: Plan, ground: Ground, name: str) -> dict[str, Any]:
    return {
        "backbone": plan.backbone,
        "backbone_id": ground.backbone_id,
        "dtype": ground.dtype,
        "task": name,
        "task_version": ground.tasks[name].version,
        "data_hash": ground.splits[name].data_hash,
        "prompt_text": plan.prompt_text,
        # Asking for more rows than there are is the same trial as asking for all.
        "test_rows": min(plan.test_rows, len(ground.splits[name].test)),
    }
