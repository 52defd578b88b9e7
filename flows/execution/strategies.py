"""How target adapters start: for each strategy and each draw of shots, the adapter to start from.

Everything that is tried runs through the stack, all draws at once, on shots and validation rows of the draw itself.
What was chosen is remembered, so that a second run tries nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_mixture, from_source, from_text
from dept.config import TrainConfig
from dept.engine.mixture import learn_weights
from dept.engine.train import Result, Trial, train
from dept.trial import MULTITASK, TrialOutcome, goodness
from flows.execution.progress import bar
from flows.execution.record import load_adapter
from flows.execution.rows import Piece, drawn, of_task, rows_of
from flows.execution.work import Workshop
from flows.planning.plan import Plan
from flows.planning.trials import Cell, Origin, transferring
from infra.errors import InputError
from infra.settings import home
from tasks.draws import subset

Key = TypeVar("Key")
Draw = tuple[list[Piece], list[Piece]]  # shots and validation rows


def origins_of(
    shop: Workshop, plan: Plan, sources: Sequence[TrialOutcome], wanted: Sequence[Cell]
) -> dict[tuple[Cell, str], Origin]:
    """For each strategy of the plan but scratch and each draw: the adapter to start from.

    Raises:
        InputError: a source trial that is needed has failed.
    """
    single = {outcome.spec.task: outcome for outcome in sources if not outcome.spec.members}
    found: dict[tuple[Cell, str], Origin] = {}
    for strategy in transferring(plan):
        kind, _, name = strategy.partition(":")
        if kind == "source":
            chosen = dict.fromkeys(wanted, _origin(_needed(single, name)))
        elif kind == MULTITASK:
            together = {outcome.spec.task: outcome for outcome in sources if outcome.spec.members}
            chosen = dict.fromkeys(wanted, _origin(_needed(together, MULTITASK)))
        else:
            if len(single) < len(plan.sources):
                failed = ", ".join(sorted(set(plan.sources) - set(single)))
                raise InputError(f"transfer: source trials failed: {failed}. Remedy: lower source_training's rates")
            # prompt-only takes P of the best source.
            choose = {"similar": _similar, "mixture": _mixture}.get(kind, _best)
            chosen = _remembered(shop, plan, choose, list(single.values()), wanted)
        found |= {(cell, strategy): origin for cell, origin in chosen.items()}
    return found


def draw_of(shop: Workshop, cell: Cell, plan: Plan) -> Draw:
    """Shots and validation rows of a draw."""
    if cell.shots is not None:
        return drawn(shop, cell.target, cell.shots, cell.seed, plan.per_class)
    splits = shop.splits[cell.target]
    checked = subset(splits.validation, plan.source_validation_rows, cell.seed)
    return of_task(cell.target, splits.train), of_task(cell.target, checked)


def best_sources(
    shop: Workshop, sources: Sequence[TrialOutcome], wanted: Mapping[Key, Draw], probe: TrainConfig
) -> dict[Key, TrialOutcome]:
    """Per draw the source of the lowest loss on its validation rows after the steps of `probe`; true few-shot.

    Those rows belong to the k-shot budget of the target; so few are right or wrong alike under several sources, but not
    at one loss. No step at all (0) tries the sources as they are.

    Raises:
        InputError: a damaged adapter, or one of another backbone.
    """
    if len(sources) == 1:
        return dict.fromkeys(wanted, sources[0])
    adapters = [load_adapter(shop.backbone, outcome) for outcome in sources]
    shape = adapters[0].config
    trials = []
    for i, draw in enumerate(wanted.values()):
        shots, validation = (rows_of(shop, part, shape) for part in draw)
        trials += [
            Trial(f"{i}/{j}", from_source(adapter, shape), probe, shots, validation)
            for j, adapter in enumerate(adapters)
        ]
    results = _tried(shop, "Choosing sources", trials)
    chosen = {}
    for i, key in enumerate(wanted):
        ranks = [_rank(results[f"{i}/{j}"]) for j in range(len(sources))]
        chosen[key] = sources[max(range(len(sources)), key=ranks.__getitem__)]
    return chosen


def _best(shop: Workshop, plan: Plan, sources: Sequence[TrialOutcome], wanted: Sequence[Cell]) -> dict[Cell, Origin]:
    probe = _probe(plan.transfer_training, plan.probe_steps)
    draws = {cell: draw_of(shop, cell, plan) for cell in wanted}
    return {cell: _origin(outcome) for cell, outcome in best_sources(shop, sources, draws, probe).items()}


def _similar(shop: Workshop, plan: Plan, sources: Sequence[TrialOutcome], wanted: Sequence[Cell]) -> dict[Cell, Origin]:
    """SPoT (https://arxiv.org/abs/2110.07904): the source whose prompt lies nearest to the target's after a few steps.

    Prompts are compared by the cosine of their mean over tokens.
    """
    trials = []
    for i, cell in enumerate(wanted):
        start = from_text(shop.backbone, plan.adapter, plan.prompt_text, cell.seed)
        shots = rows_of(shop, draw_of(shop, cell, plan)[0], plan.adapter)
        trials.append(Trial(str(i), start, _probe(plan.scratch_training, max(1, plan.probe_steps)), shots, ()))
    results = _tried(shop, "Probing targets", trials)
    theirs = torch.stack([load_adapter(shop.backbone, outcome).prompt.detach().mean(0) for outcome in sources])
    chosen = {}
    for i, cell in enumerate(wanted):
        mine = results[str(i)].adapter.prompt.detach().mean(0)
        chosen[cell] = _origin(sources[int(torch.cosine_similarity(mine[None], theirs).argmax())])
    return chosen


def _mixture(shop: Workshop, plan: Plan, sources: Sequence[TrialOutcome], wanted: Sequence[Cell]) -> dict[Cell, Origin]:
    adapters = [load_adapter(shop.backbone, outcome) for outcome in sources]
    rows = {
        cell: [row.only_gold() for row in rows_of(shop, draw_of(shop, cell, plan)[0], plan.adapter)] for cell in wanted
    }
    steps = max(1, plan.transfer_training.steps)
    tokens = steps * sum(row.length for part in rows.values() for row in part)
    with bar("Mixing sources", tokens) as shown:
        weights = learn_weights(shop.backbone, adapters, rows, steps, shown.advance)
    return {cell: _kept(shop, from_mixture(adapters, weights[cell]), sources, weights[cell]) for cell in wanted}


def _kept(shop: Workshop, mixture: Adapter, sources: Sequence[TrialOutcome], weights: Sequence[float]) -> Origin:
    temporary = shop.mixtures / "new"
    sha256 = mixture.save(temporary, backbone=shop.name, backbone_id=shop.backbone.weights_id)
    if not (folder := shop.mixtures / sha256).is_dir():
        temporary.rename(folder)
    shares = (f"{outcome.spec.task} {w:.2f}" for outcome, w in zip(sources, weights, strict=True))
    return Origin(" + ".join(shares), sha256)


def _remembered(
    shop: Workshop,
    plan: Plan,
    choose: Callable[[Workshop, Plan, Sequence[TrialOutcome], Sequence[Cell]], dict[Cell, Origin]],
    sources: Sequence[TrialOutcome],
    wanted: Sequence[Cell],
) -> dict[Cell, Origin]:
    """What `choose` gave for each draw, from the home where it was chosen before under the same conditions."""
    about = [choose.__name__, plan.probe_steps, plan.transfer_training.model_dump(), plan.scratch_training.model_dump()]
    about += ["by loss", plan.prompt_text, plan.per_class, [outcome.adapter_sha256 for outcome in sources]]
    file = home() / "choices" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.json"
    known = _read(file)
    names = {cell: f"{cell.target} {shop.splits[cell.target].data_hash} {cell.shots} {cell.seed}" for cell in wanted}
    valid = {n for n, (_, sha256) in known.items() if choose is not _mixture or (shop.mixtures / sha256).is_dir()}
    missing = [cell for cell in wanted if names[cell] not in valid]
    if missing:
        for cell, origin in choose(shop, plan, sources, missing).items():
            known[names[cell]] = (origin.task, origin.sha256)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(file)
    return {cell: Origin(*known[names[cell]]) for cell in wanted}


def _read(file: Path) -> dict[str, tuple[str, str]]:
    try:
        return {name: (task, sha256) for name, (task, sha256) in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # not there, or cut short: chosen again


def _tried(shop: Workshop, what: str, trials: Sequence[Trial]) -> dict[str, Result]:
    tokens = sum(
        trial.config.steps * trial.batch_size * sum(row.length for row in trial.rows) / max(1, len(trial.rows))
        + (1 + (trial.config.steps > 0)) * sum(row.length for row in trial.validation)
        for trial in trials
    )
    with bar(what, tokens) as shown:
        return train(trials, shop.backbone, on_tokens=shown.advance)


def _probe(recipe: TrainConfig, steps: int) -> TrainConfig:
    return recipe.model_copy(update={"steps": steps, "eval_every": max(1, steps), "warmup": 0.0})


def _rank(result: Result) -> tuple[float, float]:
    return goodness({} if result.failure is not None else result.state.best)


def _origin(outcome: TrialOutcome) -> Origin:
    return Origin(outcome.spec.task, outcome.adapter_sha256)


def _needed(sources: Mapping[str, TrialOutcome], name: str) -> TrialOutcome:
    if name not in sources:
        raise InputError(f"transfer: the source trial of {name} failed. Remedy: lower the rates of source_training")
    return sources[name]
