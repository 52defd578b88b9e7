"""The unit that is trained, its identity and its outcome."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dept.config import AdapterConfig, Frozen, TrainConfig

Role = Literal["source", "target", "search"]
Method = Literal["dept", "prompt-tuning", "lora", "full", "in-context"]
Init = Literal[
    "scratch", "source", "best-source", "similar", "mixture", "multitask", "prompt-only", "untrained", "transfer"
]
STACKED: tuple[Method, ...] = ("dept", "prompt-tuning", "in-context")  # the others run one by one
MULTITASK = "multitask"  # name of the task of an adapter that is trained on several sources at once
FINGERPRINT_VERSION = 3  # raise when the arithmetic changes, so that old results are not taken for new ones


class TrialSpec(Frozen):
    """All that decides a trial's numbers, and nothing else. Its fingerprint is the ledger's key.

    Attributes:
        init: how a target's adapter starts; `source_task` and `source_sha256` name the adapter it starts from.
            `transfer` stands in ledgers from before strategies had names.
        members: the sources of a multitask adapter, with the hash of their rows in `data_hash`.
        per_class: shots are counted per class.
        role: search trials choose learning rates on validation rows and are never tested.
    """

    backbone: str
    backbone_id: str
    task: str
    task_version: int
    data_hash: str
    role: Role
    method: Method = "dept"
    init: Init
    shots: int | None = None
    per_class: bool = False
    seed: int = 0
    source_task: str | None = None
    source_sha256: str | None = None
    members: tuple[str, ...] = ()
    prompt_text: str
    adapter: AdapterConfig
    training: TrainConfig
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the canonical JSON of every field."""
        body = self.model_dump_json()
        return hashlib.sha256(f"{FINGERPRINT_VERSION}:{body}".encode()).hexdigest()

    @property
    def variant(self) -> str:
        """What is compared: the method, and for dept how it starts: `scratch`, `best-source`, `source:NAME`, `lora`."""
        if self.method != "dept":
            return self.method
        return f"source:{self.source_task}" if self.init == "source" else self.init

    @property
    def transfers(self) -> bool:
        """Whether the adapter starts from other tasks' adapters."""
        return self.method == "dept" and self.init not in ("scratch", "untrained")

    @property
    def label(self) -> str:
        """Short name for people: task, k, seed, variant and what it starts from."""
        shots = "all" if self.shots is None else f"k{self.shots}"
        known = self.source_task is None or self.init == "source"
        return f"{self.task}/{shots}/s{self.seed}/{self.variant if known else f'{self.variant}:{self.source_task}'}"


@dataclass
class TrialOutcome:
    """What a finished trial leaves behind. Percent, seconds, MiB; padding is padded / real tokens.

    validation, test: the task's metrics; `score` is the one that ranks (accuracy, for most tasks). extra: `metric`, the
    name of that metric; `rate`, the peak learning rate of P.
    """

    spec: TrialSpec
    adapter_folder: Path
    adapter_sha256: str
    best_step: int
    steps_done: int
    validation: dict[str, float]
    test: dict[str, float] = field(default_factory=dict)
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    tokens_per_second: float = 0.0
    peak_memory_mib: float = 0.0
    trainable: int = 0
    cut_rows: int = 0
    padding: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)


def goodness(found: Mapping[str, float]) -> tuple[float, float]:
    """What a step, a source or a strategy is chosen by: the lower validation loss, of equals the better score.

    On the few rows of a draw the share of right answers has a handful of values; the loss tells more apart. One that is
    missing (ledgers of old versions) or not finite counts as the worst.
    """
    loss = found.get("loss", math.inf)
    return (-loss if math.isfinite(loss) else -math.inf), found.get("score", found.get("accuracy", -math.inf))
