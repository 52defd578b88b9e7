"""The unit of work, its identity and its outcome. Whatever needs a backbone is one; no torch here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from dept.config import AdapterConfig, Calibration, Dtype, Frozen, TestPart, TrainConfig
from dept.constants import CONSTANTS, VOTES
from dept.migrate import migrated
from dept.readout import Readout

Kind = Literal["train", "probe", "mixture", "search", "evaluate", "ensemble"]
Role = Literal["source", "target", "search", "challenger", "champion"]
Method = Literal[
    "dept", "adept", "prompt-tuning", "lora", "lora-r8", "full", "in-context", "probe", "tfidf", "calibrated"
]
_Strategy = Literal["scratch", "source", "best-source", "similar", "mixture", "multitask", "prompt-only"]
Init = Literal[_Strategy, "untrained", "ensemble", "transfer", "auto"]
Start = Literal["text", "source", "prompt", "shots"]
STACKED: tuple[Method, ...] = ("dept", "adept", "prompt-tuning", "in-context", "calibrated")  # others: one by one
LORA: tuple[Method, ...] = ("lora", "lora-r8")
LINEAR: tuple[Method, ...] = ("probe", "tfidf")  # logistic regressions: nothing is trained by steps
TOGETHER = "ensemble:"  # begins the variant of several adapters of one variant that answer as one
DISTILLED = "distilled:"  # and that of one adapter which has learned to answer as they do
OWN_LOSS = "own_loss"  # of a refit, in `TrialOutcome.extra`: mean loss (nats) of its answers to the rows it has learned
ADAPTERS = "adapters_together"  # of an ensemble, likewise: test score of its adapters without linear baselines
PICTURES = "pictures"  # likewise, true: the rows that it learned from had their pictures
AUTO = "auto"  # per draw the recipe of the lowest cross-validated loss, of all methods that were searched
MULTITASK = "multitask"  # name of the task of an adapter that is trained on several sources at once
SCHEMA = 6  # layout of a spec's JSON; older ones are migrated when they are read
FINGERPRINT_VERSION = 5  # raise when the arithmetic changes, so that old results are not taken for new ones
# How the question was arrived at, not the question: two ways to the same start are one trial.
PROVENANCE = {"schema_version", "backbone", "init", "source_task", "searched"}


class Candidate(Frozen):
    """One way to make a target's adapter, to be tried by a search.

    Attributes:
        init, source_task: how its start was found (provenance), as of a `TrialSpec`. start, source_sha256: its start.
    """

    init: Init = "scratch"
    start: Start = "text"
    source_task: str | None = None
    source_sha256: str | None = None
    adapter: AdapterConfig
    training: TrainConfig


class Search(Frozen):
    """What a trial of kind `search` tries, by asynchronous successive halving (`dept.engine.halving`).

    Raises:
        pydantic.ValidationError: rungs that do not rise, or at which a candidate is not validated.
    """

    candidates: tuple[Candidate, ...] = Field(min_length=1, max_length=1001)
    folds: int = Field(
        2, ge=1, le=10, description="parts of the 2k rows of a draw, each validated on once; 1: one half"
    )
    rungs: tuple[int, ...] = Field((4, 12, 24), max_length=20, description="steps at which candidates have to go")
    eta: int = Field(3, ge=2, le=10, description="one of so many goes on at a rung")
    minutes: float | None = Field(
        None, gt=0, description="of training and validating, after which no candidate goes on"
    )
    together: int = Field(1, ge=1, le=64, description="candidates that answer as one, unless fewer are better")
    beside: tuple[Method, ...] = Field(
        (), description="linear baselines that answer with them, unless they make it worse"
    )

    @model_validator(mode="after")
    def _validated_at_rungs(self) -> Search:
        if list(self.rungs) != sorted(set(self.rungs)) or (self.rungs and self.rungs[0] < 1):
            raise ValueError(f"rungs must rise from 1 on, got {list(self.rungs)}")
        for every in {candidate.training.eval_every for candidate in self.candidates}:
            if odd := [rung for rung in self.rungs if rung % every]:
                raise ValueError(f"rung {odd[0]} is no multiple of eval_every={every}, so no loss is known there")
        return self

    def steps(self, anew: bool = False) -> int:
        """Steps of all candidates in one fold, where they come to each rung together and none fails.

        Args:
            anew: each rung is reached from the start, as baselines do.
        """
        left = sorted((candidate.training.end for candidate in self.candidates), reverse=True)
        total = before = 0
        for rung in self.rungs:
            total += sum(min(end, rung) - min(end, before) for end in left)
            before = 0 if anew else rung
            arrived = [end for end in left if end >= rung]
            left = arrived[: math.ceil(len(arrived) / self.eta)]
        return total + sum(end - min(end, before) for end in left)


class TrialSpec(Frozen):
    """All that decides a trial's numbers; its fingerprint is the ledger's key.

    Attributes:
        kind: `train`: an adapter is trained, tested and kept. `probe`: a start is tried for some steps and validated.
            `mixture`: weights over the adapters `sources` are learned on the shots; the mixture is the result.
            `search`: the candidates of `search` are tried by cross-validation on a draw's rows; the best is the result.
            `evaluate`: the adapter `source_sha256` answers the rows `row_ids`; metrics and the outcome of each row.
            `ensemble`: the adapters `sources` answer together, tested and kept as one.
        backbone: name or path, for people and for loading (provenance). `backbone_id`: sha256 of weights and
            tokenizer. `dtype`: number type of the frozen weights; None in those of 0.1.0, whose `backbone_id` held it.
        method: `calibrated`: the untrained prompt, of which nothing but the readout is chosen on the draw's rows.
        init: how the start was found (provenance): the strategy; of an ensemble that of its members, or `ensemble`
            where they start in several ways. `transfer` stands in ledgers from before strategies had names.
            `source_task`: name of what it starts from (provenance).
        start: what the first P, A and B are made of: vocabulary text, the adapter `source_sha256`, its P alone, or
            the shots.
        members: the sources of a multitask adapter, with the hash of their rows in `data_hash`.
        per_class: shots are counted per class.
        validation_rows: at most; of k shots None: as many of the draw; a number: those of the whole validation split.
        role: search trials choose learning rates on validation rows and are never tested; challenger and champion
            stand in decisions of retraining. One that is a member of what a search came to is not tested by itself.
        sources: kinds mixture and ensemble: sha256 of each adapter (of an ensemble: or linear baseline) that is mixed
            or answers, in order. weights: of each that answers; none: all alike.
        teacher_sha256: the ensemble whose answers on its rows it learns to give, in place of their labels.
        calibration: how scores become answers after training, see `dept.engine.readout`; none in ledgers of 0.1.0.
        tested_on: of which rows of the task, see `tasks.draws.rows_to_test`.
        row_ids: kind evaluate: ids of the rows, in order.
        search: kind search: what is tried. searched: fingerprint of the search that chose this recipe (provenance).
        refit: it learns from the validation rows of its draw as well; nothing is validated, the last step is kept.
        readout: how its scores become answers, where its search has chosen that on rows held out.
        computed: what of the backbone's arithmetic changed after trials on it could be run; None where nothing did.
        unseen: likewise of heads and linear baselines, where labels may have no row.
        chat: sha256 of the chat template that its task is read in; None: none.
    """

    schema_version: int = SCHEMA
    kind: Kind = "train"
    backbone: str
    backbone_id: str
    dtype: Dtype | None = None
    task: str
    task_version: int
    data_hash: str
    role: Role
    method: Method = "dept"
    init: Init
    start: Start = "text"
    shots: int | None = None
    per_class: bool = False
    seed: int = 0
    source_task: str | None = None
    source_sha256: str | None = None
    sources: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    teacher_sha256: str | None = None
    members: tuple[str, ...] = ()
    prompt_text: str
    adapter: AdapterConfig
    training: TrainConfig
    calibration: Calibration = "none"
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int
    tested_on: TestPart = "test"
    row_ids: tuple[str, ...] = ()
    refit: bool = False
    search: Search | None = None
    searched: str | None = None
    readout: Readout | None = None
    computed: str | None = None
    unseen: str | None = None
    chat: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, body: Any) -> Any:
        return migrated(body, SCHEMA) if isinstance(body, dict) else body

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the canonical JSON of every field that is part of the question."""
        found: Any = {"candidates": {"__all__": {"init", "source_task"}}}
        body = self.model_dump(mode="json", exclude=dict.fromkeys(PROVENANCE, True) | {"search": found})
        if self.start != "text":  # nothing is made of it
            del body["prompt_text"]
        if self.tested_on == "test" or not self.test_rows:
            del body["tested_on"]
        if self.kind == "evaluate":
            del body["role"]  # an adapter's answers are the same, whatever it stands for
        for late in ("teacher_sha256", "readout", "computed", "unseen", "weights", "chat"):  # as before there were any
            if not body[late]:
                del body[late]
        recipes = [body, *(body["search"]["candidates"] if self.search else ())]
        for recipe in recipes:
            if (sight := recipe["adapter"]["pictures"]) is None:  # as before there were any
                del recipe["adapter"]["pictures"], recipe["training"]["lr_pictures"]
                continue
            if sight["encoder_id"] is not None:  # an encoder is known by its files, wherever they lie
                sight["encoder"] = sight["width"] = None
            for late in ("encoder", "encoder_id", "width"):
                if sight[late] is None:
                    del sight[late]
        if self.search and not self.search.beside:
            del body["search"]["beside"]
        elif self.search:
            body["beside"] = [VOTES, *(CONSTANTS[method] for method in self.search.beside)]
        if self.kind == "search" and self.method in (*LORA, "full") and self.calibration != "none":
            body["raws"] = True  # they were compared by uncalibrated scores once
        if self.method in CONSTANTS:
            body["constants"] = CONSTANTS[self.method]
        return hashlib.sha256(f"{FINGERPRINT_VERSION}:{json.dumps(body, sort_keys=True)}".encode()).hexdigest()

    @property
    def variant(self) -> str:
        """What is compared: the method, and for dept how it starts: `scratch`, `best-source`, `source:NAME`, `lora`.

        Of several together: `ensemble:` and what each of them is, or `ensemble` alone where they are of several kinds;
        `distilled` likewise.
        """
        together = DISTILLED if self.teacher_sha256 else TOGETHER
        if self.init == "ensemble":
            return together[:-1]
        own: str = self.method if self.method != "dept" and self.init != "auto" else self.init
        own = f"source:{self.source_task}" if own == "source" else own
        alone = self.kind != "ensemble" or self.searched is not None  # those of a search are what it came to
        return own if alone and not self.teacher_sha256 else f"{together}{own}"

    @property
    def transfers(self) -> bool:
        """Whether the adapter starts from other tasks' adapters, as its strategy asks."""
        alone = self.kind != "ensemble" and not self.teacher_sha256
        return alone and self.method == "dept" and self.init not in ("scratch", "untrained", "auto")

    @property
    def needed(self) -> tuple[str, ...]:
        """sha256 of each adapter that it starts from, mixes, is compared with, learns from or lets answer."""
        tried = tuple(one.source_sha256 for one in self.search.candidates) if self.search else ()
        own = (self.source_sha256, self.teacher_sha256, *tried)
        return self.sources or tuple(dict.fromkeys(sha for sha in own if sha))

    def of(self, number: int, **changes: Any) -> TrialSpec:
        """The trial that a search makes of one of its candidates, by its number; `changes`: fields that differ."""
        assert self.search is not None
        one = self.search.candidates[number]
        fields = {name: getattr(one, name) for name in type(one).model_fields}
        return self.model_copy(update={"kind": "train", "search": None, **fields, **changes})

    @property
    def label(self) -> str:
        """Short name for people: task, k, seed, variant and what it starts from."""
        shots = "all" if self.shots is None else f"k{self.shots}"
        known = self.source_task is None or self.init == "source"
        name = f"{self.task}/{shots}/s{self.seed}/{self.variant if known else f'{self.variant}:{self.source_task}'}"
        return name if self.kind in ("train", "ensemble") else f"{self.kind}:{name}"


@dataclass
class TrialOutcome:
    """What a finished trial leaves behind. Percent, seconds, MiB; padding is padded / real tokens.

    Attributes:
        adapter_key: place of the adapter in the store; empty where a trial leaves none (evaluate). `adapter_sha256`:
            sha256 of its tensor file, `files_sha256`: of all its files (`registry.store.digest_of`), "" in ledgers from
            before it was kept; both are checked at every load.
        validation, test: the task's metrics; `score` is the one that ranks (accuracy, for most tasks).
        loss_curve: (step, training loss). validation_curve, validation_loss_curve: (step, score) and (step, loss) of
            each validation; the lowest loss chose `best_step`, and 0 there means that the adapter is its start.
        extra: `metric`, the name of that metric; `rate`, the peak learning rate of P; LoRA: `rank`; a refit:
            `own_loss`, see `OWN_LOSS`; kind mixture: `weights`; kind ensemble: `members_alone`, the test score of each
            adapter by itself, and see `ADAPTERS`; kind evaluate: `rows`, the outcome of each row; kind search:
            `search`, see `dept.engine.halving.Found.told`.
    """

    spec: TrialSpec
    adapter_key: str
    adapter_sha256: str
    best_step: int
    steps_done: int
    validation: dict[str, float]
    test: dict[str, float] = field(default_factory=dict)
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_loss_curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    tokens_per_second: float = 0.0
    peak_memory_mib: float = 0.0
    trainable: int = 0
    cut_rows: int = 0
    padding: float = 1.0
    files_sha256: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def score_of(found: Mapping[str, float]) -> float | None:
    """The score that ranks, percent; older outcomes know accuracy alone. None where nothing was measured."""
    return found.get("score", found.get("accuracy"))


def goodness(found: Mapping[str, float]) -> tuple[float, float]:
    """What a step, a source or a strategy is chosen by: the lower validation loss, of equals the better score.

    On the few rows of a draw the share of right answers has a handful of values; the loss tells more apart. One that is
    missing (ledgers of old versions) or not finite counts as the worst.
    """
    loss, score = found.get("loss", math.inf), score_of(found)
    return (-loss if math.isfinite(loss) else -math.inf), -math.inf if score is None else score
