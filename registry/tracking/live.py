"""Curves of trials on MLflow's pages while they train, written by a thread of its own: training waits for none of it.

A run is begun once its trial has trained for a while; who trains shorter has one request less. A worker sends at most
one request a second.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Metric

from dept.trial import TrialSpec
from registry.tracking.client import BATCH
from registry.tracking.patience import first_line
from registry.tracking.system import SystemMetrics
from registry.tracking.trial_run import (
    CURVES,
    LOSS,
    VALIDATION_LOSS,
    VALIDATION_SCORE,
    Begun,
    begun_tags,
    now,
    thinned,
    trial_params,
)
from registry.tracking.trials import TrialRuns

AFTER = 10.0  # seconds of training after which runs are begun
EVERY = 10.0  # seconds between two rounds
MOST = 500  # points of a loss curve
METRICS = {"loss": LOSS, "validation_loss": VALIDATION_LOSS, "validation_score": VALIDATION_SCORE}
Curve = Sequence[tuple[int, float]]
_log = logging.getLogger(__name__)


@dataclass
class _Trial:
    spec: TrialSpec
    attempt: int
    start: int
    every: int  # steps between two points of its loss that are kept
    moments: dict[str, dict[int, int]] = field(default_factory=dict)
    waiting: list[Metric] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    run_id: str | None = None


class Live:
    """The trials of one stack.

    Args:
        parent_run_id: MLflow run that theirs are below.
        trials: key -> spec and attempt.
        provenance: how their numbers come about.
    """

    def __init__(
        self,
        runs: TrialRuns,
        system: SystemMetrics,
        parent_run_id: str,
        trials: Mapping[str, tuple[TrialSpec, int]],
        provenance: Mapping[str, Any],
    ) -> None:
        self.runs, self.system, self.client = runs, system, runs.tracker.client
        self.parent_run_id, self.provenance = parent_run_id, provenance
        start = now()
        self._trials = {
            key: _Trial(spec, attempt, start, max(1, -(-spec.training.steps // MOST)))
            for key, (spec, attempt) in trials.items()
        }
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="curves", daemon=True)
        self._thread.start()

    def point(self, key: str, curve: str, step: int, value: float, at: float) -> None:
        """A point that was reached; `curve` as of `dept.engine.state.Point`, `at` in seconds since the epoch."""
        trial = self._trials.get(key)
        if trial is None or (curve == "loss" and step % trial.every):
            return
        self._keep(trial, METRICS[curve], step, value, int(at * 1000))

    def restored(self, key: str, curves: Mapping[str, Curve], seconds: float) -> None:
        """What a process before this one had reached: it began so much earlier.

        Args:
            curves: by their names in outcomes.
        """
        if (trial := self._trials.get(key)) is None:
            return
        began = trial.start - int(seconds * 1000)
        for name, metric, most in CURVES:
            points = curves.get(name, ())
            last = max((step for step, _ in points), default=0) or 1
            for step, value in thinned(points, most):
                self._keep(trial, metric, step, value, began + round((trial.start - began) * step / last))
        trial.start = began

    def hand_over(self, key: str) -> Begun | None:
        """What is known of a trial that has ended; its run is no more written here."""
        with self._lock:
            trial = self._trials.pop(key, None)
            if trial is None:
                return None
            return Begun(trial.start, trial.run_id, trial.moments, dict(trial.sent))

    def close(self) -> None:
        """Write no more; runs of trials that were not handed over are deleted: their attempt is over."""
        self._closed.set()
        with self._lock:
            left, self._trials = [trial for trial in self._trials.values() if trial.run_id], {}
        with contextlib.suppress(Exception):  # MLflow is away: the next attempt deletes what is left
            for trial in left:
                self.runs.tracker.ask("delete_run", trial.run_id)

    def _keep(self, trial: _Trial, metric: str, step: int, value: float, at: int) -> None:
        trial.moments.setdefault(metric, {})[step] = at
        with self._lock:
            trial.waiting.append(Metric(metric, float(value), at, step))

    def _run(self) -> None:
        pause = AFTER
        while not self._closed.wait(pause):
            began = time.monotonic()
            self.system.begin(self.parent_run_id)
            with self._lock:
                keys = list(self._trials)
            for key in keys:
                if self._closed.is_set():
                    return
                try:
                    self._send(key)
                except Exception as error:  # MLflow is away: what waits goes with the next round, or with the end
                    _log.info("curves wait: %s", first_line(error))
                    break
            pause = max(EVERY, float(len(keys))) - (time.monotonic() - began)
            pause = max(pause, 1.0)

    def _send(self, key: str) -> None:
        with self._lock:
            trial = self._trials.get(key)
            if trial is None or not trial.waiting:
                return
            points, trial.waiting = trial.waiting[:BATCH], trial.waiting[BATCH:]
        fresh = trial.run_id is None
        try:
            if fresh and not self._begin(key, trial):
                return
            values = trial_params(trial.spec) if fresh else ()
            self.client.log_batch(str(trial.run_id), metrics=points, params=values)
        except Exception:
            with self._lock:
                trial.waiting = points + trial.waiting
            raise
        with self._lock:
            for point in points:
                trial.sent[point.key] = max(point.step, trial.sent.get(point.key, -1))

    def _begin(self, key: str, trial: _Trial) -> bool:
        """Begin a trial's run; False where it has ended meanwhile, and its run was written without this one."""
        runs, spec = self.runs, trial.spec
        runs.make_way(spec.fingerprint, trial.attempt)
        tags = begun_tags(spec, trial.attempt, self.parent_run_id or None, self.provenance)
        run_id = runs.create(spec, tags, trial.start)
        with self._lock:
            if still := key in self._trials and not self._closed.is_set():
                trial.run_id = run_id
        if not still:
            self.client.delete_run(run_id)
            return False
        return True
