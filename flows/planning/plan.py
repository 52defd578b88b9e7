"""The plan: what is trained on what. Pure: it knows tasks, not Prefect, not torch."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from dept.config import AdapterConfig, TestPart, TrainConfig
from dept.trial import Method
from flows.planning.answering import AskedCalibration, Distil, Members, MembersOf, wrong_ensemble
from flows.planning.defaults import PROMPT_TEXT, SCRATCH_TRAINING, SOURCE_TRAINING, TRANSFER_TRAINING, RateKey, RateList
from flows.planning.groups import Group, Name, PromptText, Recipe, Seed, Shots, Strategy
from flows.planning.search_plan import SearchPlan
from infra.errors import InputError
from infra.explain import Filled, Form
from infra.nearest import near
from tasks.catalogue import catalogue
from tasks.spec import Task

Dtype = Literal["float32", "bfloat16", "int8", "nf4", "int8-torchao"]
Validation = Literal["shots", "full"]
PlanMethod = Literal["auto", Method]
Linear = Literal["probe", "tfidf"]
WorkerCount = Annotated[int, Field(ge=1, le=1000)]  # workers at a time
MOST = 10_000  # tasks of a plan
MOST_TRIALS = 1_000_000
BLOCKS = f"`NAME: block` for each task, or a list of at most {MOST:,} blocks with a key name"
# ABCMeta, from which pydantic's metaclass derives, has a method of this name; no model uses it.
warnings.filterwarnings("ignore", message='Field name "register" in "Plan" shadows')


class Plan(BaseModel):
    """One experiment: adapters learned on source tasks start the adapters of few-shot target tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Name = Field(description="short name of the plan; appears in run names and in the report")
    backbone: str = Field(
        "smollm2-135m", min_length=1, max_length=500, description="frozen model: catalogue name, hub id or local folder"
    )
    device: Annotated[str | None, Form("cpu, mps, cuda or cuda:N")] = Field(
        None, pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="cpu, mps, cuda or cuda:N; empty: the best there is"
    )
    dtype: Dtype | None = Field(
        None, description="type of the frozen weights; empty: bfloat16 on CUDA, else float32. Adapters stay float32"
    )
    engine: Literal["local", "deepspeed"] = Field(
        "local", description="local: train in this process; deepspeed: ZeRO-3 over several ranks"
    )
    ranks: int = Field(2, ge=1, le=64, description="processes that share the backbone (engine deepspeed only)")
    own_tasks: Annotated[list[Task], Form(BLOCKS)] = Field(
        default_factory=list, max_length=MOST, description="your own tasks, each a block as in the catalogue"
    )
    stored: Annotated[dict[Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], Filled()] = Field(
        default_factory=dict,
        description="sha256, by own task, of its rows in the store, from where they are read. A run fills it in: its "
        "workers need no file of another machine",
    )
    sources: list[Name] = Field(
        default_factory=list, max_length=MOST, description="tasks with many rows, trained first"
    )
    targets: list[Name] = Field(min_length=1, max_length=MOST, description="tasks to be learned from k shots per trial")
    shots: list[Shots] = Field(
        default=[16],
        min_length=1,
        max_length=20,
        description="numbers k of training rows. all: every training row, and the validation rows",
    )
    validation: Validation = Field(
        "shots",
        description="rows that choose steps, rates and starts of k shots. shots: as many more rows as there are shots, "
        "which is true few-shot; full: the whole validation split, as published few-shot tables do",
    )
    seeds: list[Seed] = Field(
        default_factory=lambda: [0, 1], min_length=1, max_length=50, description="seeds; each draws its own shots"
    )
    per_class: bool = Field(False, description="count the shots per class, not in total")
    verbalizer: Literal["words", "paper"] = Field(
        "words", description="words: natural words; paper: class indices as text, as the authors trained"
    )
    strategies: list[Strategy] = Field(
        default_factory=lambda: ["scratch", "best-source"],
        min_length=1,
        max_length=20,
        description="how target adapters start: scratch, source:NAME, best-source, similar, mixture, multitask, "
        "prompt-only",
    )
    methods: list[PlanMethod] = Field(
        default_factory=lambda: list[PlanMethod](("auto",)),
        min_length=1,
        max_length=20,
        description="auto: for each draw the best of dept (all starts and answers), probe, tfidf and what else is "
        "listed here and searched, by cross-validated loss (dept where rates are named); dept, and baselines on the "
        "same rows: prompt-tuning, lora (all linear layers) with as many trainable numbers, lora-r8 (rank 8), full, "
        "in-context; probe (logistic regression on the frozen backbone's states), tfidf and calibrated cost seconds",
    )
    beside: list[Linear] = Field(
        default_factory=lambda: list[Linear](("probe", "tfidf")),
        max_length=2,
        description="baselines of seconds that each report shows, though methods does not list them: of each draw of a "
        "target that tells classes; []: none",
    )
    rates: dict[RateKey, RateList] = Field(
        default_factory=dict,
        description="peak learning rates of P to choose from, per method (transfer: dept from a source): the lowest "
        "mean validation loss over all targets, on shots of seeds of their own; none: those of scratch_training, and "
        "1e-3 for lora, 1e-4 for full",
    )
    low_rank_rates: dict[RateKey, RateList] = Field(
        default_factory=dict,
        description="peak learning rates of A and B to choose from, each with each of `rates`; none: the share that "
        "the training recipe gives them",
    )
    rates_per: Literal["method", "target"] = Field(
        "method", description="one choice of rates for all targets, or one for each"
    )
    search_draws: int = Field(
        1, ge=1, le=100, description="draws of shots per target on which rates are chosen; more tell close ones apart"
    )
    search: SearchPlan | None = Field(
        None, description="search the recipe of each draw and method on its own rows; empty: the recipes as they stand"
    )
    groups: list[Group] = Field(default_factory=list, max_length=50, description="targets whose recipe differs")
    zero_shot: bool = Field(
        False, description="also test the sources of the strategies source:NAME on every target as they are"
    )
    probe_steps: int = Field(
        4, ge=0, le=1000, description="steps for which best-source and similar try; 0: sources are tried as they are"
    )
    prompt_text: PromptText = Field(
        PROMPT_TEXT, description="text whose token embeddings start the soft prompt of scratch trials"
    )
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="shape of every adapter of this plan")
    source_training: TrainConfig = Field(SOURCE_TRAINING, description="how source adapters are trained")
    scratch_training: TrainConfig = Field(
        SCRATCH_TRAINING,
        description="how target adapters that start from scratch are trained",
    )
    transfer_training: TrainConfig = Field(
        TRANSFER_TRAINING,
        description="how target adapters that start from a source are trained; high rates destroy what it brought",
    )
    source_rows: int | None = Field(
        None, ge=1, le=10_000_000, description="training rows per source at most; empty: all"
    )
    source_validation_rows: int = Field(64, ge=1, le=100_000, description="validation rows per source at most")
    test_rows: int = Field(200, ge=1, le=1_000_000, description="test rows per trial at most")
    test_split: TestPart = Field(
        "test",
        description="rows that targets are tested on. reserve: those that judge champions, and of the validation split "
        "those that no default was tuned on: fresh rows for a study where the test split has been looked at",
    )
    calibration: AskedCalibration = "choose"
    ensemble: Members = 0
    ensemble_of: MembersOf = "seeds"
    distil: Distil = False
    workers: WorkerCount | None = Field(
        None,
        description="workers at a time, where a work pool carries the plan out; empty: the limit of their pool, or 1 "
        "where it has none. `dept run` works by itself",
    )
    register: bool = Field(
        True,
        description="let the best adapter of each task challenge the task's champion; false: train and report alone",
    )

    @field_validator("own_tasks", mode="before")
    @classmethod
    def _as_in_catalogue(cls, value: Any) -> Any:
        """The catalogue writes `name: block`; so may a plan."""
        if isinstance(value, dict):
            for name, block in value.items():
                if not isinstance(block, dict):
                    raise ValueError(f"{name}: must be a block of keys and values (source, verbalizer), got {block!r}")
            return [{"name": name, **block} for name, block in value.items()]
        return value

    @field_validator("source_training", "scratch_training", "transfer_training", mode="before")
    @classmethod
    def _with_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        """Keys that a plan leaves out are those of this training's own defaults."""
        own = cls.model_fields[str(info.field_name)].default
        return own.model_dump() | value if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _by_hand(cls, body: Any) -> Any:
        """Rates are named for a method that is trained by them: `auto` searches its own."""
        named = isinstance(body, dict) and (body.get("rates") or body.get("low_rank_rates"))
        return {"methods": ["dept"], **body} if named else body

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        for field in ("sources", "targets", "shots", "seeds", "strategies", "methods", "beside"):
            twice = _duplicates(getattr(self, field))
            if twice:
                raise ValueError(f"{field}: {twice[0]} is listed twice; list it once")
        twice = _duplicates(task.name for task in self.own_tasks)
        if twice:
            raise ValueError(f"own_tasks: two tasks are called {twice[0]}; give each its own name")
        sources = set(self.sources)
        leaks = [name for name in self.targets if name in sources]
        if leaks:
            raise ValueError(
                f"targets: {leaks[0]} is also a source, so its training rows would leak into the result; "
                "take it out of one of the two lists"
            )
        if self.searches and (self.rates or self.low_rank_rates):
            raise ValueError("rates: search and auto choose them for each draw; take rates out, or search and auto")
        self._check_groups()
        if self.test_split == "reserve" and (self.register or self.validation == "full" or None in self.counted):
            raise ValueError("test_split: reserve needs register: false, validation: shots and numbers of shots")
        several = self.ensemble, self.ensemble_of, len(self.seeds)
        if odd := wrong_ensemble(*several, self.distil, self.methods, self.search):
            raise ValueError(odd)
        if "mixture" in self.strategies and any(self.recipe(name).adapter.pictures for name in self.targets):
            raise ValueError("strategies: mixture mixes no maps of pictures; take it out, or adapter.pictures")
        if self.zero_shot and not any(strategy.startswith("source:") for strategy in self.strategies):
            raise ValueError("zero_shot: tests the strategies source:NAME as they are; name some in strategies")
        if self._trials() > MOST_TRIALS:
            many = f"{self._trials():,} trials, from targets, shots, seeds, strategies, methods and rates"
            raise ValueError(f"targets: {many}; at most {MOST_TRIALS:,}; divide the plan into several")
        if self.transfers and not self.sources:
            raise ValueError("sources: transfer needs at least one source; name one, or set strategies to [scratch]")
        for strategy in self.strategies:
            name = strategy.partition(":")[2]
            if name and name not in self.sources:
                raise ValueError(f"strategies: {strategy}: {name} is no source{near(name, self.sources)}")
        return self

    def _trials(self) -> int:
        """Trials of targets, of searches of rates and recipes, and of starts that are tried, at most."""
        ways = len({*self.methods, *self.beside}) + ("dept" in self.methods) * (len(self.strategies) - 1)
        ways += 3 * ("auto" in self.methods)  # its searches
        ways *= 1 + (self.search is not None)  # a search for each
        ways += len(self.sources) if set(self.strategies) & {"best-source", "similar", "prompt-only"} else 0
        both = (self.rates, self.low_rank_rates)
        choices = sum(math.prod(max(1, len(rates.get(key, ()))) for rates in both) for key in {*both[0], *both[1]})
        return len(self.targets) * (len(self.shots) * len(self.seeds) * ways + self.search_draws * choices)

    def _check_groups(self) -> None:
        grouped = [name for group in self.groups for name in group.targets]
        if twice := _duplicates(grouped):
            raise ValueError(f"groups: {twice[0]} is in two groups; put it into one")
        for name in grouped:
            if name not in self.targets:
                raise ValueError(f"groups: {name} is no target{near(name, self.targets)}; groups=[] leaves them out")
            self.recipe(name)
        if self.transfers and not all(self.recipe(name).adapter.starts_from(self.adapter) for name in grouped):
            raise ValueError("groups: an adapter of another shape cannot start from the plan's sources")

    def recipe(self, target: str) -> Recipe:
        """Shape and training of a target's adapter: the plan's, or those of its group.

        Raises:
            ValueError: a group names an unknown key or a value out of bounds.
        """
        recipe = Recipe(self.adapter, self.scratch_training, self.transfer_training, self.prompt_text)
        for group in self.groups:
            if target in group.targets:
                recipe = recipe.of_group(group)
        return recipe

    @property
    def counted(self) -> list[int | None]:
        """The shots as trials name them: k, or None for all rows."""
        return [None if k == "all" else k for k in self.shots]

    @property
    def transfers(self) -> bool:
        """Whether any target starts from a source."""
        return self.adapts and any(strategy != "scratch" for strategy in self.strategies)

    @property
    def searches(self) -> bool:
        """Whether recipes are searched on the rows of each draw."""
        return self.search is not None or "auto" in self.methods

    @property
    def adapts(self) -> bool:
        """Whether any target gets a DePT adapter, by itself or among what `auto` chooses from."""
        return not {"dept", "auto"}.isdisjoint(self.methods)

    def resolve_tasks(self) -> dict[str, Task]:
        """Sources, then targets, by name.

        Raises:
            InputError: a name that neither the catalogue nor own_tasks holds, or an own task named as one of the
                catalogue.
        """
        shipped = catalogue()
        own = {task.name: task for task in self.own_tasks}
        taken = [name for name in own if name in shipped]
        if taken:
            raise InputError(f"own_tasks: the catalogue already has a task {taken[0]}; choose another name")
        known = shipped | own
        for field in ("sources", "targets"):
            for name in getattr(self, field):
                if name not in known:
                    raise InputError(f"{field}: unknown task {name!r}{near(name, known)}")
        return {name: known[name].with_verbalizer(self.verbalizer) for name in [*self.sources, *self.targets]}


def _duplicates(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
