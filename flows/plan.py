"""The plan: what is trained on what. Pure: it knows tasks and trials, not Prefect, not torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialSpec
from tasks.catalogue import catalogue
from tasks.errors import InputError
from tasks.spec import Task
from tasks.splits import Splits, few_shot, load_splits

SHIPPED = Path(__file__).parent / "plans"
SourceKey = tuple[str, int, int]  # target task, shots k, seed
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Shots = Annotated[int, Field(ge=1, le=10_000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Start = Literal["scratch", "transfer"]
PROMPT_TEXT = "Read the text and name the label that fits it best."


class Plan(BaseModel):
    """One experiment: adapters learned on source tasks start the adapters of few-shot target tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="short name of the plan; appears in run names and in the report")
    backbone: str = Field(
        "smollm2-135m", min_length=1, max_length=500, description="frozen model: catalogue name, hub id or local folder"
    )
    device: str | None = Field(
        None, pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="cpu, mps, cuda or cuda:N; empty: the best there is"
    )
    engine: Literal["local", "deepspeed"] = Field(
        "local", description="local: train in this process; deepspeed: ZeRO-3 over several ranks"
    )
    ranks: int = Field(2, ge=1, le=64, description="processes that share the backbone (engine deepspeed only)")
    own_tasks: list[Task] = Field(
        default_factory=list, max_length=100, description="your own tasks, each a block as in the catalogue"
    )
    sources: list[Name] = Field(default_factory=list, max_length=100, description="tasks with many rows, trained first")
    targets: list[Name] = Field(min_length=1, max_length=100, description="tasks to be learned from k shots per trial")
    shots: list[Shots] = Field(
        default_factory=lambda: [16],
        min_length=1,
        max_length=20,
        description="numbers k of training rows; as many more rows validate",
    )
    seeds: list[Seed] = Field(
        default_factory=lambda: [0, 1], min_length=1, max_length=50, description="seeds; each draws its own shots"
    )
    inits: list[Start] = Field(
        default_factory=lambda: list(get_args(Start)),
        min_length=1,
        max_length=2,
        description="how target adapters start: from vocabulary text, or from a source adapter",
    )
    prompt_text: str = Field(
        PROMPT_TEXT,
        min_length=1,
        max_length=2000,
        description="text whose token embeddings start the soft prompt of scratch trials",
    )
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="shape of every adapter of this plan")
    source_training: TrainConfig = Field(
        default_factory=lambda: TrainConfig(steps=60, lr_prompt=1e-2, lr_low_rank=1e-3),
        description="how source adapters are trained",
    )
    scratch_training: TrainConfig = Field(
        default_factory=lambda: TrainConfig(steps=15, lr_prompt=1e-2, lr_low_rank=1e-3, eval_every=5),
        description="how target adapters that start from scratch are trained",
    )
    transfer_training: TrainConfig = Field(
        default_factory=lambda: TrainConfig(steps=15, lr_prompt=1e-3, lr_low_rank=1e-4, eval_every=5),
        description="how target adapters that start from a source are trained; high rates destroy what it brought",
    )
    source_rows: int | None = Field(
        None, ge=1, le=10_000_000, description="training rows per source at most; empty: all"
    )
    source_validation_rows: int = Field(64, ge=1, le=100_000, description="validation rows per source at most")
    test_rows: int = Field(200, ge=1, le=1_000_000, description="test rows per trial at most")
    transfer_from: Literal["best"] | dict[str, str] = Field(
        "best",
        description="best: the source that scores best, untrained, on the target's k validation rows; "
        "or a map target: source (targets left out take the best)",
    )

    @field_validator("own_tasks", mode="before")
    @classmethod
    def _as_in_catalogue(cls, value: Any) -> Any:
        """The catalogue writes `name: block`; so may a plan."""
        if isinstance(value, dict) and all(isinstance(block, dict) for block in value.values()):
            return [{"name": name, **block} for name, block in value.items()]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        for field in ("sources", "targets", "shots", "seeds", "inits"):
            twice = _duplicates(getattr(self, field))
            if twice:
                raise ValueError(f"{field}: {twice[0]} is listed twice; list it once")
        twice = _duplicates(task.name for task in self.own_tasks)
        if twice:
            raise ValueError(f"own_tasks: two tasks are called {twice[0]}; give each its own name")
        leaks = [name for name in self.targets if name in self.sources]
        if leaks:
            raise ValueError(
                f"targets: {leaks[0]} is also a source, so its training rows would leak into the result; "
                "take it out of one of the two lists"
            )
        if "transfer" in self.inits and not self.sources:
            raise ValueError("sources: transfer needs at least one source; name one, or set inits to [scratch]")
        if isinstance(self.transfer_from, dict):
            for target, source in self.transfer_from.items():
                if target not in self.targets:
                    raise ValueError(f"transfer_from: {target} is no target{_near(target, self.targets)}")
                if source not in self.sources:
                    raise ValueError(f"transfer_from.{target}: {source} is no source{_near(source, self.sources)}")
        return self

    def fixed_source(self, target: str) -> str | None:
        """Source that the plan prescribes for `target`; None means: the best on validation."""
        return None if self.transfer_from == "best" else self.transfer_from.get(target)

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
                    raise InputError(f"{field}: unknown task {name!r}{_near(name, known)}")
        return {name: known[name] for name in [*self.sources, *self.targets]}


def load_plan(name_or_path: str | Path) -> Plan:
    """Read a plan: a shipped name (`demo`) or the path of a YAML file.

    Raises:
        InputError: no such plan, not UTF-8, not YAML, an unknown key, a value out of bounds, an unknown task.
    """
    path = _find(str(name_or_path))
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except UnicodeDecodeError as error:
        raise InputError(f"plan {path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"plan {path}: not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise InputError(f"plan {path}: cannot be read ({error.strerror})") from error
    if not isinstance(body, dict):
        raise InputError(f"plan {path}: expected keys and values such as 'targets: [movie-polarity]'")
    body.setdefault("name", path.stem)
    try:
        plan = Plan.model_validate(body)
        # A path in a plan counts from the plan's folder, wherever the command is started.
        plan = plan.model_copy(update={"own_tasks": [task.rooted(path.parent) for task in plan.own_tasks]})
        plan.resolve_tasks()
    except ValidationError as error:
        raise InputError(f"plan {path.name}: {_one_line(error)}") from error
    except InputError as error:
        raise InputError(f"plan {path.name}: {error}") from error
    return plan


def replaced(plan: Plan, **changes: Any) -> Plan:
    """The plan with some fields replaced and all checks run again (`model_copy` runs none).

    Raises:
        InputError: the change makes the plan invalid.
    """
    try:
        return Plan.model_validate(plan.model_dump() | changes)
    except ValidationError as error:
        raise InputError(f"plan {plan.name}: {_one_line(error)}") from error


def check(plan: Plan) -> dict[str, Splits]:
    """Load the rows of every task and find, before any training, all that can be wrong with them.

    Raises:
        InputError: unknown task, unreadable rows, a label without a training row, no test row, k larger than the rows.
    """
    splits: dict[str, Splits] = {}
    for name, task in plan.resolve_tasks().items():
        rows = load_splits(task)  # finds labels without rows and empty or damaged files
        if name in plan.targets:
            for k in plan.shots:
                for seed in plan.seeds:
                    try:
                        few_shot(rows, k, seed, len(task.labels))
                    except InputError as error:
                        raise InputError(f"task {name}: {error}") from error
        splits[name] = rows
    return splits


def source_specs(
    plan: Plan, tasks: Mapping[str, Task], splits: Mapping[str, Splits], backbone_id: str
) -> list[TrialSpec]:
    """One trial per source task, with the first seed."""
    return [
        TrialSpec(
            role="source",
            init="scratch",
            shots=None,
            seed=plan.seeds[0],
            training=plan.source_training,
            train_rows=None if plan.source_rows is None else min(plan.source_rows, len(splits[name].train)),
            validation_rows=min(plan.source_validation_rows, len(splits[name].validation)),
            **_common(plan, tasks[name], splits[name], backbone_id),
        )
        for name in plan.sources
    ]


def target_specs(
    plan: Plan,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Splits],
    backbone_id: str,
    sources: Mapping[SourceKey, tuple[str, str]],
) -> list[TrialSpec]:
    """Per target: one untrained trial, then shots x seeds x inits.

    Args:
        plan: what to train.
        tasks: by name, as `Plan.resolve_tasks` gives them.
        splits: by name, as `check` gives them.
        backbone_id: sha256 of the backbone's weights.
        sources: (target, k, seed) -> (source task, sha256 of its adapter); needed if the plan transfers.

    Raises:
        InputError: a transfer trial whose source is not given.
    """
    specs = []
    for name in plan.targets:
        common = _common(plan, tasks[name], splits[name], backbone_id)
        # Nothing is drawn or trained, so neither shots nor seed may make two trials of it.
        specs.append(
            TrialSpec(role="target", init="untrained", shots=None, seed=0, training=TrainConfig(steps=0), **common)
        )
        for k in plan.shots:
            for seed in plan.seeds:
                for init in plan.inits:
                    task, sha256 = None, None
                    if init == "transfer":
                        if (name, k, seed) not in sources:
                            raise InputError(
                                f"target {name}, k={k}, seed={seed}: no source adapter is known; "
                                "train the sources first"
                            )
                        task, sha256 = sources[name, k, seed]
                    training = plan.transfer_training if init == "transfer" else plan.scratch_training
                    specs.append(
                        TrialSpec(
                            role="target",
                            init=init,
                            shots=k,
                            seed=seed,
                            training=training,
                            source_task=task,
                            source_sha256=sha256,
                            **common,
                        )
                    )
    return specs


def _common(plan: Plan, task: Task, splits: Splits, backbone_id: str) -> dict[str, Any]:
    return {
        "backbone": plan.backbone,
        "backbone_id": backbone_id,
        "task": task.name,
        "task_version": task.version,
        "data_hash": splits.data_hash,
        "prompt_text": plan.prompt_text,
        "adapter": plan.adapter,
        # Asking for more rows than there are is the same trial as asking for all.
        "test_rows": min(plan.test_rows, len(splits.test)),
    }


def shipped_plans() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise InputError(f"plan {name}: no such file. Shipped plans: {', '.join(shipped_plans())}")
    if name in shipped_plans():
        return SHIPPED / f"{name}.yaml"
    hint = " (a plan file must end in .yaml)." if path.exists() else _near(name, shipped_plans(), list_all=False)
    raise InputError(
        f"plan {name}: unknown{hint or '.'} Shipped plans: {', '.join(shipped_plans())}; "
        "or give the path of a .yaml file"
    )


def _near(name: str, known: Iterable[str], *, list_all: bool = True) -> str:
    """What to say after a wrong name: the nearest right one, and all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    if not list_all:
        return hint
    return f"{hint} Known: {', '.join(names)}" if hint else f"; known: {', '.join(names)}"


def _duplicates(values: Iterable[Any]) -> list[Any]:
    listed = list(values)
    return [value for index, value in enumerate(listed) if value in listed[:index]]


def _one_line(error: ValidationError) -> str:
    """Each fault as `field.path: what is wrong`, at most three."""
    faults = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            allowed = _allowed(fault["loc"])
            message = f"unknown key{_near(str(fault['loc'][-1]), allowed)}" if allowed else "unknown key"
        elif fault["type"] == "missing":
            message = "missing; it must be given"
        elif fault["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, got {_short(fault['input'])}"
        faults.append(f"{place}: {message}" if place else message)
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return "; ".join(" ".join(fault.split()) for fault in faults[:3]) + more


def _allowed(place: tuple[int | str, ...]) -> list[str]:
    """Keys that may stand where the unknown key at `place` stands."""
    if len(place) == 1:
        return list(Plan.model_fields)
    models: dict[int | str, type[BaseModel]] = {
        "adapter": AdapterConfig,
        "source_training": TrainConfig,
        "own_tasks": Task,
        "scratch_training": TrainConfig,
        "transfer_training": TrainConfig,
    }
    # a fault in an own task stands at own_tasks.0.key
    depth = 3 if place[0] == "own_tasks" else 2
    return list(models[place[0]].model_fields) if place[0] in models and len(place) == depth else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML silently keeps the last of two equal keys; a plan should not lose a line that way."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if isinstance(key, str) and key in keys[:index]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)
