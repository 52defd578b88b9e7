"""What a trial's MLflow run holds: tags to find it by, a few parameters to compare by, numbers and curves."""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param

from dept.trial import TrialOutcome, TrialSpec
from infra.identity import process_id
from infra.secrets import masked
from registry.tracking.datasets import of_trial, tags_of
from registry.tracking.notes import NOTE, of_this_program
from registry.tracking.notes import of_trial as note_of_trial

LONGEST = 500  # characters of a parameter that are shown
# One request takes 1,000 metrics; the ledger and report.json hold each curve in full. Name in outcomes -> metric.
LOSS, VALIDATION_LOSS, VALIDATION_SCORE = "curve/train_loss", "curve/validation_loss", "curve/validation_score"
CURVES = (
    ("loss_curve", LOSS, 500),
    ("validation_curve", VALIDATION_SCORE, 200),
    ("validation_loss_curve", VALIDATION_LOSS, 200),
)
COSTS = ("seconds", "tokens_per_second", "peak_memory_mib")
TOLD_COSTS = ("tokens", "trainable", "cut_rows", "padding", "steps_done", "best_step")  # as tags: nobody sorts by them
Moments = Mapping[int, int]  # step -> ms since the epoch


@dataclass(frozen=True)
class Begun:
    """A trial's run that was begun while it trained.

    Attributes:
        run_id: None where it trained too short for that. start: ms since the epoch.
        moments: metric -> when steps of its curve were reached. sent: metric -> the last step that the run has.
    """

    start: int
    run_id: str | None = None
    moments: Mapping[str, Moments] = field(default_factory=dict)
    sent: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialLog:
    """A finished trial on its way to MLflow.

    Attributes:
        attempt: which attempt of the ledger made the outcome; fingerprint and attempt name the run.
        folder: the adapter's files, whose manifest names the rows it drew; they stay in the store. None: none.
        provenance: device, engine, torch, commit, ...; tags `provenance.NAME`.
        tags: further tags.
        ended: when the trial ended, seconds since the epoch; None: now.
        begun: what is known of its training as it went.
    """

    outcome: TrialOutcome
    attempt: int = 1
    folder: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    ended: float | None = None
    begun: Begun | None = None


@dataclass(frozen=True)
class Times:
    """When a trial began and ended, and when steps were reached, ms since the epoch."""

    start: int
    end: int
    moments: Mapping[str, Moments] = field(default_factory=dict)

    @classmethod
    def of(cls, item: TrialLog, start: int | None = None) -> Times:
        """As they were; where nobody looked on, from its end, or the start that a run of it has, and its seconds."""
        end = now() if item.ended is None else int(item.ended * 1000)
        if item.begun is not None:
            return cls(item.begun.start, max(end, item.begun.start), item.begun.moments)
        length = int(item.outcome.seconds * 1000)
        return cls(end - length, end) if start is None else cls(start, start + length)

    def at(self, curve: str, step: int, steps: int) -> int:
        """When a step of a curve was reached: between moments that are known all steps are taken as equally long."""
        known = self.moments.get(curve)
        if known and step in known:
            return known[step]
        places = sorted(known or ())
        after = bisect.bisect(places, step)
        first, then = (places[after - 1], known[places[after - 1]]) if known and after else (0, self.start)
        last, until = (places[after], known[places[after]]) if known and after < len(places) else (steps, self.end)
        share = min((step - first) / (last - first), 1.0) if last > first else 1.0
        return then + round((until - then) * share)


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def trial_params(spec: TrialSpec) -> list[Param]:
    """What runs are compared by; all else stands in the tags, the adapter's file and the ledger."""
    return params(
        {
            "task": spec.task,
            "k": "all" if spec.shots is None else spec.shots,
            "seed": spec.seed,
            "method": spec.method,
            "start": spec.variant,
            "source": spec.source_task,
            "lr_prompt": f"{spec.training.lr_prompt:g}",
            "lr_low_rank": f"{spec.training.lr_low_rank:g}" if spec.adapter.r else None,
            "lr_pictures": f"{spec.training.lr_pictures:g}" if spec.adapter.pictures else None,
            "steps": spec.training.steps,
        }
    )


def trial_tags(item: TrialLog, parent_run_id: str | None) -> dict[str, str]:
    """Identity, hashes and provenance; empty values are left out."""
    outcome = item.outcome
    spec = outcome.spec
    tags: dict[str, Any] = {
        **begun_tags(spec, item.attempt, parent_run_id, item.provenance),
        "adapter_key": outcome.adapter_key,
        "adapter_sha256": outcome.adapter_sha256,
        **{f"cost.{name}": f"{getattr(outcome, name):g}" for name in TOLD_COSTS},
        **tags_of(of_trial(outcome, item.folder)),
        NOTE: note_of_trial(outcome, outcome.adapter_key),
        **item.tags,
    }
    return cleaned(tags)


def begun_tags(
    spec: TrialSpec, attempt: int, parent_run_id: str | None, provenance: Mapping[str, Any]
) -> dict[str, str]:
    """What a run is found by, and how its numbers come about: known before it is trained."""
    tags: dict[str, Any] = {
        "kind": "trial",
        "fingerprint": spec.fingerprint,
        "attempt": attempt,
        "role": spec.role,
        "task": spec.task,
        "shape": f"m={spec.adapter.m} r={spec.adapter.r} s={spec.adapter.s}",
        "backbone": spec.backbone,
        "backbone_id": spec.backbone_id,
        "data_hash": spec.data_hash,
        "source_sha256": spec.source_sha256,
        "teacher_sha256": spec.teacher_sha256,
        "owner": process_id(),
        "mlflow.parentRunId": parent_run_id,
        **of_this_program(),
        **{f"provenance.{name}": value for name, value in provenance.items()},
    }
    return cleaned(tags)


def cleaned(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as text, without credentials; empty ones are left out."""
    return {key: masked(value) for key, value in tags.items() if value not in (None, "")}


def trial_metrics(outcome: TrialOutcome, times: Times, sent: Mapping[str, int] | None = None) -> list[Metric]:
    """Curves at their own times and steps, then the numbers of the kept step and the costs; below 1,000 in all.

    A curve of one point is none: its number stands among the others. Those stand at step 0, where MLflow's page draws
    bars of all runs side by side; at another it draws a line of one dot.

    Args:
        sent: metric -> the last step of its curve that the run has already.
    """
    steps, kept = outcome.steps_done, outcome.best_step
    points = [
        Metric(key, float(value), times.at(key, step, steps), step)
        for name, key, most in CURVES
        for step, value in thinned(getattr(outcome, name), most, kept)
        if len(getattr(outcome, name)) > 1 and step > (sent or {}).get(key, -1)
    ]
    return [
        *points,
        *numbers(reached_metrics(outcome), times.end),
        *numbers({f"cost/{name}": getattr(outcome, name) for name in COSTS}, times.end),
    ]


def reached_metrics(outcome: TrialOutcome) -> dict[str, float]:
    """`validation/*` and `test/*` of the kept step; `score` is the task's own metric, so that tasks share a column."""
    found = {f"validation/{name}": value for name, value in outcome.validation.items()}
    return found | {f"test/{name}": value for name, value in outcome.test.items()}


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
