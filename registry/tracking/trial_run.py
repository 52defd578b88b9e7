"""What a trial's MLflow run holds: tags to find it by, a few parameters to compare by, numbers and curves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param

from dept.trial import TrialOutcome, TrialSpec
from infra.identity import process_id
from infra.secrets import masked

LONGEST = 500  # characters of a parameter that are shown
# One request takes 1,000 metrics; the ledger and report.json hold each curve in full.
CURVES = (
    ("loss_curve", "train/loss", 500),
    ("validation_curve", "validation/curve", 200),
    ("validation_loss_curve", "validation/loss_curve", 200),
)
COSTS = (
    *("seconds", "tokens", "tokens_per_second", "peak_memory_mib", "trainable", "cut_rows", "padding"),
    "steps_done",
)


@dataclass(frozen=True)
class TrialLog:
    """A finished trial on its way to MLflow.

    Attributes:
        attempt: which attempt of the ledger made the outcome; fingerprint and attempt name the run.
        folder: the adapter's files, uploaded as artifact `adapter`; None: nothing is uploaded.
        provenance: device, engine, torch, commit, ...; tags `provenance.NAME`.
        tags: further tags.
        ended: when the trial ended, seconds since the epoch; None: now.
    """

    outcome: TrialOutcome
    attempt: int = 1
    folder: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    ended: float | None = None


@dataclass(frozen=True)
class Times:
    """When a trial began and ended, ms since the epoch."""

    start: int
    end: int

    @classmethod
    def of(cls, item: TrialLog, start: int | None = None) -> Times:
        """From its end, or from the start that a run of it has, and the seconds of training."""
        length = int(item.outcome.seconds * 1000)
        if start is not None:
            return cls(start, start + length)
        end = now() if item.ended is None else int(item.ended * 1000)
        return cls(end - length, end)

    def at(self, step: int, steps: int) -> int:
        """When a step of `steps` was done, all taken as equally long."""
        return self.start + round((self.end - self.start) * min(step / steps, 1.0)) if steps else self.end


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def trial_params(spec: TrialSpec) -> list[Param]:
    """What runs are compared by; all else stands in the tags, the adapter's file and the ledger."""
    rates = spec.training
    return params(
        {
            "task": spec.task,
            "k": "all" if spec.shots is None else spec.shots,
            "seed": spec.seed,
            "method": spec.method,
            "start": spec.init,
            "source": spec.source_task,
            "lr_prompt": rates.lr_prompt,
            "lr_low_rank": rates.lr_low_rank,
            "steps": rates.steps,
            "m": spec.adapter.m,
            "r": spec.adapter.r,
        }
    )


def trial_tags(item: TrialLog, parent_run_id: str | None) -> dict[str, str]:
    """Identity, hashes and provenance; empty values are left out."""
    outcome = item.outcome
    spec = outcome.spec
    tags: dict[str, Any] = {
        "kind": "trial",
        "fingerprint": spec.fingerprint,
        "attempt": item.attempt,
        "role": spec.role,
        "task": spec.task,
        "backbone": spec.backbone,
        "backbone_id": spec.backbone_id,
        "data_hash": spec.data_hash,
        "adapter_key": outcome.adapter_key,
        "adapter_sha256": outcome.adapter_sha256,
        "source_sha256": spec.source_sha256,
        "teacher_sha256": spec.teacher_sha256,
        "owner": process_id(),
        "mlflow.parentRunId": parent_run_id,
        **of_this_program(),
        **{f"provenance.{name}": value for name, value in item.provenance.items()},
        **item.tags,
    }
    return {key: masked(value) for key, value in tags.items() if value not in (None, "")}


def trial_metrics(outcome: TrialOutcome, times: Times) -> list[Metric]:
    """Curves at their own times and steps, then the numbers of the kept step and the costs; below 1,000 in all."""
    steps, kept = outcome.steps_done, outcome.best_step
    points = [
        Metric(key, float(value), times.at(step, steps), step)
        for name, key, most in CURVES
        for step, value in thinned(getattr(outcome, name), most, kept)
    ]
    return [
        *points,
        *numbers({f"validation/{name}": value for name, value in outcome.validation.items()}, times.end, kept),
        *numbers({f"test/{name}": value for name, value in outcome.test.items()}, times.end, kept),
        *numbers({"best_step": kept}, times.end, kept),
        *numbers({f"cost/{name}": getattr(outcome, name) for name in COSTS}, times.end, steps),
    ]


def thinned(curve: Sequence[tuple[int, float]], most: int, kept: int = -1) -> list[tuple[int, float]]:
    """At most about `most` points of a curve, evenly: the first, the last and the kept step among them."""
    if len(curve) <= most:
        return list(curve)
    chosen = {round(place * (len(curve) - 1) / (most - 2)) for place in range(most - 1)}
    return [point for place, point in enumerate(curve) if place in chosen or point[0] == kept]


def numbers(values: Mapping[str, float], at: int, step: int = 0) -> list[Metric]:
    """Single numbers as metrics; `at` in ms since the epoch."""
    return [Metric(key, float(value), at, step) for key, value in values.items()]


def params(values: Mapping[str, Any]) -> list[Param]:
    """Values as parameters, without credentials; None is left out."""
    return [Param(key, masked(value)[:LONGEST]) for key, value in values.items() if value is not None]


def of_this_program() -> dict[str, str]:
    """What MLflow's page shows as the source of a run."""
    return {"mlflow.source.name": "dept-transfer", "mlflow.source.type": "LOCAL"}
