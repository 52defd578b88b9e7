"""Trials' runs: written once for each attempt, found again by (fingerprint, attempt), three requests each.

MLflow has no request that makes, fills and ends a run, nor one for several runs. To a server they go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dept.trial import TrialSpec
from infra.errors import InputError
from infra.identity import process_id
from registry.tracking.client import Client
from registry.tracking.names import run_name
from registry.tracking.trial_run import Times, TrialLog, trial_metrics, trial_params, trial_tags

AT_ONCE = 8  # trials that are written side by side
_OPEN = ("RUNNING", "SCHEDULED")
_LOOK_SECONDS = 1.0
OnWait = Callable[[], object] | None


class TrialRuns:
    """Writes trials' runs to an experiment."""

    def __init__(self, tracker: Client) -> None:
        self.tracker = tracker
        self._written: dict[tuple[str, int], str] = {}  # runs that this process has closed

    def log(
        self, parent_run_id: str | None, items: Sequence[TrialLog], *, look: bool, on_wait: OnWait
    ) -> dict[str, str]:
        """Write the child runs of finished trials; returns run ids by fingerprint.

        A finished run of the fingerprint with the same adapter, or of a later attempt, is returned as it is; one whose
        adapter was made again is tagged `superseded_by_attempt`. What was left half-written is KILLED and deleted.

        Args:
            look: search MLflow also for runs of first attempts, as where a ledger is new or a run may have been
                deleted. Those of later attempts are always searched for.
            on_wait: called now and then, by this thread alone, while MLflow is away.

        Raises:
            InputError: the store does not answer, or an adapter's files are gone.
        """
        for item in items:
            if item.folder is not None and not item.folder.is_dir():
                raise InputError(
                    f"trial {item.outcome.spec.label}: its adapter {item.folder} is gone. Remedy: restore the folder, "
                    "or `dept trials forget` the trial and run the plan again"
                )
        if len(items) == 1 or not self.tracker.is_server:
            return {item.outcome.spec.fingerprint: self._trial(parent_run_id, item, look, on_wait) for item in items}
        with ThreadPoolExecutor(AT_ONCE, "mlflow") as pool:
            going = {
                item.outcome.spec.fingerprint: pool.submit(self._trial, parent_run_id, item, look, None)
                for item in items
            }
            left = set(going.values())
            try:
                while left:
                    left = wait(left, _LOOK_SECONDS).not_done
                    if left and on_wait is not None:
                        on_wait()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {fingerprint: written.result() for fingerprint, written in going.items()}

    def of(self, fingerprint: str, ask: bool = True) -> list[Run]:
        """All runs of a trial; `ask` False: see `Tracker.search`."""
        return self.tracker.search(f"tags.fingerprint = '{fingerprint}'", ask)

    def make_way(self, fingerprint: str, attempt: int, on_wait: OnWait = None) -> None:
        """Delete what earlier attempts left half-written."""
        for run in self.of(fingerprint) if attempt > 1 else ():
            if run.info.status in _OPEN and int(run.data.tags.get("attempt", 0)) < attempt:
                self._kill(run, on_wait)

    def _kill(self, run: Run, on_wait: OnWait) -> None:
        self.tracker.ask("set_terminated", run.info.run_id, status="KILLED", on_wait=on_wait)
        self.tracker.ask("delete_run", run.info.run_id, on_wait=on_wait)

    def _trial(self, parent_run_id: str | None, item: TrialLog, look: bool, on_wait: OnWait) -> str:
        fingerprint = item.outcome.spec.fingerprint
        known = self._written.get((fingerprint, item.attempt))
        if known is not None and not look:
            return known
        begun = None if item.begun is None else item.begun.run_id
        left: Run | None = None
        for run in self.of(fingerprint) if look or item.attempt > 1 else ():
            theirs = int(run.data.tags.get("attempt", 0))
            same = run.data.tags.get("adapter_sha256") == item.outcome.adapter_sha256
            if run.info.run_id == begun:
                continue
            if run.info.status == "FINISHED":
                if same or theirs > item.attempt:
                    return str(run.info.run_id)
                self.tracker.ask(
                    "set_tag", run.info.run_id, "superseded_by_attempt", str(item.attempt), on_wait=on_wait
                )
            elif run.info.status in _OPEN:
                if theirs > item.attempt:
                    return str(run.info.run_id)  # this attempt has been overtaken: the ledger refuses it
                if theirs == item.attempt and run.data.tags.get("owner") == process_id() and begun is None:
                    left = run
                else:
                    self._kill(run, on_wait)
        return self._write(parent_run_id, item, begun, left, on_wait)

    def _write(
        self, parent_run_id: str | None, item: TrialLog, begun: str | None, left: Run | None, on_wait: OnWait
    ) -> str:
        """The run with its tags and times (where it was begun: its tags), all numbers, the end."""
        outcome, ask = item.outcome, self.tracker.ask
        # The times of a run that was begun stay: a number that is sent twice with one time is kept once.
        times = Times.of(item, left.info.start_time if left else None)
        tags = trial_tags(item, parent_run_id)
        run_id = begun or (str(left.info.run_id) if left else self.create(outcome.spec, tags, times.start, on_wait))
        sent = {} if item.begun is None or begun is None else item.begun.sent
        try:
            more = tags if begun or left else {}
            self.tracker.log(run_id, trial_metrics(outcome, times, sent), trial_params(outcome.spec), more, on_wait)
            ask("set_terminated", run_id, status="FINISHED", end_time=times.end, on_wait=on_wait)
        except MlflowException:
            if ask("get_run", run_id, on_wait=on_wait).info.lifecycle_stage == "active":
                raise
            return run_id  # a later attempt has deleted it; the ledger refuses this one
        self._written[outcome.spec.fingerprint, item.attempt] = run_id
        return run_id

    def create(self, spec: TrialSpec, tags: Mapping[str, str], start: int, on_wait: OnWait = None) -> str:
        """Begin a trial's run; one of this attempt and process that an answer was lost of is found again."""

        def begun() -> Run | None:
            for run in self.of(spec.fingerprint, ask=False):
                same = all(run.data.tags.get(key) == tags[key] for key in ("attempt", "owner"))
                if same and run.info.status in _OPEN and run.info.start_time == start:
                    return run
            return None

        run = self.tracker.ask(
            "create_run",
            self.tracker.experiment_id,
            start_time=start,
            run_name=run_name(spec),
            tags=dict(tags),
            found=begun,
            on_wait=on_wait,
        )
        return str(run.info.run_id)
