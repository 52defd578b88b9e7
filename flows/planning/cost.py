"""What a plan will cost, without training: trials, steps, trainable numbers, tokens and time.

Nothing is fetched: rows, tokenizer and weights count where they are on this machine, and bounds stand in for the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from dept.backbones.describe import told_dtype
from dept.trial import MULTITASK, TrialOutcome, TrialSpec
from flows.planning.astray import astray, steadied
from flows.planning.backbone_cost import BackboneCost
from flows.planning.check import check, check_draws
from flows.planning.distilled import distilled_specs, planned_distilled
from flows.planning.encoders import check_encoder, read_as_letters
from flows.planning.ensembles import ensemble_specs, planned
from flows.planning.joined import joined_targets
from flows.planning.pictures import LOOKED_AT, blocks, check_pictures, encoders_of
from flows.planning.places import Draw, Origin
from flows.planning.plan import Plan
from flows.planning.rates import best_rates
from flows.planning.reach import in_reach
from flows.planning.searches import asked, searched_targets, searches
from flows.planning.speed import Remembers, speed
from flows.planning.strategies import choose, start_specs
from flows.planning.trials import Inputs, search_specs, source_specs, target_specs
from flows.planning.work import AnyWinner, work_of
from tasks.load import load_splits
from tasks.sources.read import locate
from tasks.spec import FileSource, Task
from tasks.splits import Splits

SAMPLE = 200  # training rows of a task whose tokens are counted
FORWARD = 1 / 3  # of the time of a training step: what a token costs that is only evaluated
AWAY = range(10**9)  # stands for the rows of a task that are not on this machine: only their number is asked


class _AnyOrigin(dict[tuple[Draw, str], Origin]):
    """Which adapter a trial will start from is not known before the sources are trained."""

    def get(self, key: tuple[Draw, str], default: Any = None) -> Any:
        return Origin(key[1].partition(":")[2] or "to be chosen", "0" * 64)

    def __getitem__(self, key: tuple[Draw, str]) -> Origin:
        return cast(Origin, self.get(key))


@dataclass
class Line:
    """One row of the table: a stage and variant. Steps and tokens of all its trials together.

    numbers: trainable numbers of each trial; None where they are not known.
    bound: tokens are an upper bound, of rows or a tokenizer out of reach.
    """

    stage: str
    variant: str
    trials: int = 0
    steps: int = 0
    numbers: list[int | None] = field(default_factory=list)
    trained: float = 0.0
    evaluated: float = 0.0
    bound: bool = False


@dataclass
class Estimate:
    """lines of the table; speed: tokens a second in training, None where it is not known; notes for people."""

    lines: list[Line]
    speed: float | None
    notes: list[str]

    def seconds(self, line: Line) -> float | None:
        """Time of a line's trials."""
        return None if self.speed is None else (line.trained + FORWARD * line.evaluated) / self.speed


class Known(Remembers, Protocol):
    """What is done already, and how fast: the ledger."""

    def outcomes(self, fingerprints: Iterable[str]) -> Mapping[str, TrialOutcome]:
        """Results of finished trials, by fingerprint."""


def estimate(plan: Plan, ledger: Known | None = None) -> Estimate:
    """Count what a run of the plan will train and evaluate, from the same lists of trials as the run.

    Args:
        ledger: trials that it holds as finished are left out; none: nothing is done yet.

    Raises:
        InputError: see `flows.planning.check.check`, for the tasks whose rows are on this machine; pictures for a
            backbone that reads none.
    """
    backbone = BackboneCost(plan)
    tasks = plan.resolve_tasks()
    check_pictures(plan, tasks, lambda: backbone.info)
    splits, away = _splits(plan)
    inputs = Inputs(tasks, splits, backbone.id, backbone.d or 1, backbone.dtype, backbone.room, backbone.computed)
    inputs = replace(inputs, chat=backbone.chat(tasks.values()), encoders=encoders_of(plan, tasks, here=True))
    if backbone.info is not None:
        check_encoder(plan, tasks, backbone.info)
        inputs = replace(inputs, tells_words=backbone.info.tells_words)
    means = {name: _lengths(task, splits[name], backbone, name in away) for name, task in tasks.items()}
    there = [name for name in tasks if name not in away]
    looked = {name: blocks(plan, tasks[name], splits[name].train[:LOOKED_AT], backbone.info) for name in there}
    own = {name: sum(found) / len(found) for name, found in looked.items() if found}
    read_already: set[tuple[object, ...]] = set()
    lines: dict[tuple[str, str], Line] = {}
    left_out: set[str] = set()

    def done(specs: Iterable[TrialSpec]) -> Mapping[str, TrialOutcome]:
        found = ledger.outcomes([spec.fingerprint for spec in specs]) if ledger is not None else {}
        left_out.update(found)
        return found

    def add(stage: str, variant: str, spec: TrialSpec, finished: Container[str]) -> None:
        if spec.fingerprint in finished:
            return
        line = lines.setdefault((stage, variant), Line(stage, variant))
        mean, bound = _mean(spec, means)
        mean += spec.adapter.pictures.positions if spec.adapter.pictures else own.get(spec.task, 0.0)
        drawn = _drawn(spec, tasks[spec.task].strata) if spec.task in tasks else None
        most = drawn if spec.validation_rows is None else spec.validation_rows
        checked = len(splits[spec.task].validation) if most is None else most
        work = work_of(spec, drawn, checked)
        read = 1 + (drawn or 0) if spec.method == "in-context" else 1  # the shots stand before every text
        read *= len(spec.sources) if spec.kind == "ensemble" else 1
        line.trials += 1
        line.steps += work.steps
        labels = len(tasks[spec.task].words) if spec.task in tasks else 0
        line.numbers.append(backbone.numbers(spec, labels))
        line.trained += work.trained * mean
        if spec.method == "tfidf":
            return  # no token of it enters the backbone
        if away.isdisjoint(spec.members or (spec.task,)):  # else it is not known how many rows there are
            linear = spec.method == "probe"
            once = (drawn or len(splits[spec.task].train)) + checked if linear or _fits(spec) else 0
            if spec.teacher_sha256:  # all members answer its rows before
                once += (drawn or len(splits[spec.task].train)) * (plan.ensemble or asked(plan).together)
            rest = work.validated + spec.test_rows * read
            line.evaluated += mean * (_fresh(spec, once, read_already) if linear else once + rest)
        line.bound |= bound

    sources = source_specs(plan, inputs)
    trained = done(sources)
    for spec in sources:
        add("sources", "multitask" if spec.members else "each", spec, trained)
    # Where a source is still to be trained, another sha256 stands for its own: it finds nothing in the ledger.
    adapters = {name: hashlib.sha256(name.encode()).hexdigest() for name in (*plan.sources, MULTITASK)}
    adapters |= {outcome.spec.task: outcome.adapter_sha256 for outcome in trained.values()}
    tried = start_specs(plan, inputs, adapters)
    chosen = done(tried)
    best = "best-source" in plan.strategies
    for spec in tried:
        add("choice", "prompt-only" if spec.init == "best-source" and not best else spec.init, spec, chosen)
    origins: Mapping[tuple[Draw, str], Origin] = _AnyOrigin()
    if len(trained) == len(sources) and len(chosen) == len(tried):
        origins = choose(plan, inputs, adapters, chosen).origins
    search = search_specs(plan, inputs, origins)
    searched = done(spec for specs in search.values() for spec in specs)
    for specs in search.values():
        for spec in specs:
            add("search", spec.variant, spec, searched)
    wanted = searches(plan, inputs, origins)
    found = done(wanted.values())
    for (_, method, strategy), spec in wanted.items():
        add("recipes", strategy if method == "dept" else method, spec, found)
    rates = best_rates(search, searched, plan.rates_per == "target")[0]
    targets = target_specs(plan, inputs, origins, rates, wanted)
    winners = AnyWinner(wanted.values(), found)
    targets += searched_targets(plan, inputs, wanted, winners)
    tested = done(targets)
    for spec in targets:
        add("targets", "auto, together" if spec.role == "search" else spec.variant, spec, tested)
    outcomes = [replace(tested[one.fingerprint], spec=one) for one in targets if one.fingerprint in tested]
    lost = astray(outcomes, found)
    again = done(lost.values())
    for spec in lost.values():
        add("targets again", spec.variant, spec, again)
    kept = steadied(outcomes, lost, again)
    whole = len(outcomes) == len(targets) and len(again) == len(lost)
    together = ensemble_specs(plan, tasks, kept.outcomes) if whole else planned(plan, tasks, targets)
    shas = {one.fingerprint: one.fingerprint for one in targets}
    pairs = zip(outcomes, kept.outcomes, strict=True)
    shas |= {given.spec.fingerprint: stays.adapter_sha256 for given, stays in pairs}
    together += joined_targets(plan, inputs, wanted, winners, shas, kept.instead)
    answered = done(together)
    for spec in together:
        add("ensembles", spec.variant, spec, answered)
    reached = [*kept.outcomes, *answered.values()]
    whole = whole and len(answered) == len(together)
    taught = distilled_specs(plan, reached, rates) if whole else planned_distilled(plan, together, targets, rates)
    learned = done(taught)
    for spec in taught:
        add("distilled", spec.variant, spec, learned)
    rate, where_from = speed(backbone, ledger) if lines else (None, "")
    notes = read_as_letters(tasks.values(), backbone.info) if backbone.info is not None else []
    notes += _notes(plan, backbone, sorted(away), lines.values(), len(left_out), where_from, inputs.encoders)
    return Estimate(list(lines.values()), rate, notes)


def _splits(plan: Plan) -> tuple[dict[str, Splits], set[str]]:
    tasks = plan.resolve_tasks()
    away = {name for name, task in tasks.items() if not in_reach(task)}
    for name in away:  # a wheel or the hub may be out of reach here; a file of one's own that is not there is a fault
        if isinstance(source := tasks[name].source, FileSource):
            locate(source)
    if not away:
        return check(plan), away
    rows = cast(Any, AWAY)
    stand_in = Splits(rows, rows, rows, "not in reach", {})
    splits = {name: stand_in if name in away else load_splits(task) for name, task in tasks.items()}
    for name in (name for name in plan.targets if name not in away):
        check_draws(plan, tasks[name], splits[name])
    return splits, away


def _fits(spec: TrialSpec) -> bool:
    """Whether a head is fitted on its rows before any step."""
    return bool(spec.adapter.reads) and spec.kind == "train"


def _fresh(spec: TrialSpec, drawn: int, known: set[tuple[object, ...]]) -> int:
    """Rows of a probe whose states nobody has asked for: a worker reads each row once, whatever is made of it.

    Args:
        drawn: its shots and validation rows. known: what was read before; what this trial reads is added.
    """
    alike = spec.task, spec.adapter.s
    parts = {(*alike, spec.shots, spec.seed, spec.validation_rows): drawn, (*alike, "test"): spec.test_rows}
    fresh = sum(rows for part, rows in parts.items() if rows and part not in known)
    known |= {part for part, rows in parts.items() if rows}
    return fresh


def _lengths(task: Task, splits: Splits, backbone: BackboneCost, away: bool) -> list[int] | None:
    """Tokens of some training rows, as the task cuts them; None where rows or tokenizer are out of reach."""
    if away or backbone.folder is None:
        return None
    found = backbone.lengths([row.text for row in splits.train[:SAMPLE]], task.chat)
    return [min(length, task.max_length or length) for length in found]


def _mean(spec: TrialSpec, known: Mapping[str, list[int] | None]) -> tuple[float, bool]:
    """Tokens per row of a trial, and whether that is a bound: a text has at most s."""
    found = []
    for name in spec.members or (spec.task,):
        lengths = known[name]
        found.append(spec.adapter.s if lengths is None else sum(min(n, spec.adapter.s) for n in lengths) / len(lengths))
    return sum(found) / len(found), any(known[name] is None for name in spec.members or (spec.task,))


def _drawn(spec: TrialSpec, strata: int) -> int | None:
    """Rows of a draw of shots; None where a trial learns from all rows."""
    return None if spec.shots is None else spec.shots * (strata if spec.per_class else 1)


def _notes(
    plan: Plan,
    backbone: BackboneCost,
    away: list[str],
    lines: Collection[Line],
    done: int,
    speed_from: str,
    encoders: Container[str],
) -> list[str]:
    notes = []
    if backbone.folder is None:
        width = f"width d = {backbone.d}, from a table" if backbone.d else "its width d is unknown, so are the numbers"
        notes.append(f"Backbone {plan.backbone} is not on this machine: {width}.")
    maps = (plan.recipe(name).adapter.pictures for name in plan.targets)
    unknown = sorted({one.encoder for one in maps if one is not None and one.encoder and one.encoder not in encoders})
    notes += [f"Picture encoder {name} is not on this machine: numbers are unknown." for name in unknown]
    notes += [speed_from] if speed_from else []
    if told := told_dtype(plan.dtype, plan.device):
        notes.append(f"Frozen weights: {told}.")
    if away:
        notes.append(f"Rows that are not on this machine: {', '.join(away)}.")
    if any(line.bound for line in lines):
        notes.append("Tokens marked ≤ are an upper bound: every text as long as the adapter's s allows.")
    if away:
        notes.append("Of tasks whose rows are not here, validation and test are not counted.")
    if any(plan.counted):
        few, whole = "as many rows as shots (true few-shot)", "the whole validation split"
        notes.append(f"Steps, rates and starts are chosen on {few if plan.validation == 'shots' else whole}.")
    notes += _larger(lines)
    notes.append("Patience may end trials earlier.")
    if done:
        notes.append(f"{done} trials that the ledger holds are left out: they are not trained again.")
    return notes


def _larger(lines: Collection[Line]) -> list[str]:
    """The sentence about LoRA where its least rank is more than the budget."""
    numbers = {
        line.variant: max((n for n in line.numbers if n), default=0) for line in lines if line.stage == "targets"
    }
    ours, theirs = numbers.get("scratch", 0), numbers.get("lora", 0)
    if not 0 < ours < theirs:
        return []
    return [f"lora trains {theirs:,} numbers, DePT {ours:,}: rank 1 in all linear layers is the least there is."]
