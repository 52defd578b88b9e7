"""The unit that is trained, its identity and its outcome."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dept.config import AdapterConfig, Frozen, TrainConfig

Role = Literal["source", "target"]
Init = Literal["scratch", "transfer", "untrained"]
FINGERPRINT_VERSION = 1  # raise when the arithmetic changes, so that old results are not taken for new ones


class TrialSpec(Frozen):
    """All that decides a trial's numbers, and nothing else. Its fingerprint is the ledger's key."""

    backbone: str
    backbone_id: str
    task: str
    task_version: int
    data_hash: str
    role: Role
    method: Literal["dept"] = "dept"
    init: Init
    shots: int | None = None
    seed: int = 0
    source_task: str | None = None
    source_sha256: str | None = None
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
    def label(self) -> str:
        """Short name for people: task, k, seed, start."""
        shots = "all" if self.shots is None else f"k{self.shots}"
        start = self.init if self.source_task is None else f"{self.init}:{self.source_task}"
        return f"{self.task}/{shots}/s{self.seed}/{start}"


@dataclass
class TrialOutcome:
    """What a finished trial leaves behind. Percent, seconds, MiB; padding is padded / real tokens."""

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
