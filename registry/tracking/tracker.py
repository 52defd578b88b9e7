"""The one MLflow experiment that runs are written to, over a database or a tracking server alike."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.errors import InputError
from infra.identity import is_gone, process_id
from infra.secrets import masked
from infra.settings import home, settings
from registry.tracking.opening import is_server, open_store, without_credentials
from registry.tracking.patience import Patience
from registry.tracking.trial_run import (
    Times,
    TrialLog,
    now,
    numbers,
    of_this_program,
    params,
    trial_metrics,
    trial_params,
    trial_tags,
)

OPENING_SECONDS = 5.0  # a dead address is named soon; one that has answered is waited for
_BATCH = 900  # MLflow takes at most 1,000 metrics and 100 parameters in one request
_OPEN = ("RUNNING", "SCHEDULED")
MACHINE_LEARNING = "workflowType=machine_learning"  # MLflow's page opens with traces of language models otherwise


class Tracker:
    """Writes runs to one MLflow experiment. Touches no active run of the process.

    Args:
        uri: tracking URI; default $MLFLOW_TRACKING_URI, else the SQLite file home()/mlflow.db. User and password of an
            http address go to MLflow by its own variables of the environment, and nowhere else.
        experiment: its name; made where missing. With a database, artifacts lie under home()/artifacts; a server
            decides for itself.
        patience: seconds that a request waits for a store that has answered before; default $DEPT_MLFLOW_PATIENCE.

    Raises:
        InputError: a store that does not answer or cannot be written.
    """

    def __init__(
        self, uri: str | None = None, experiment: str = "dept-transfer", patience: float | None = None
    ) -> None:
        self.uri = uri or settings().mlflow_tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"
        self.is_server = is_server(self.uri)
        if self.is_server:
            self.uri = without_credentials(self.uri)
        self.patience = Patience(self.uri, OPENING_SECONDS)
        open_store(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.experiment = experiment
        self.experiment_id = self._open_experiment()
        self.patience.seconds = settings().mlflow_patience if patience is None else patience
        self._written: dict[tuple[str, int], str] = {}  # runs that this process has closed

    def ask(
        self,
        method: str,
        *args: Any,
        found: Callable[[], Any] | None = None,
        on_wait: Callable[[], object] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a method of the MLflow client; a store that is away is waited for.

        Args:
            found: for a method that makes something: looks for what an earlier try has made although its answer was
                lost, and returns it or None.
            on_wait: called before each pause.

        Raises:
            InputError: it does not answer for too long.
            MlflowException: it answered with a refusal.
        """
        return self.patience.ask(
            lambda: getattr(self.client, method)(*args, **kwargs), found, on_wait, gone=method.startswith("delete_")
        )

    def waiting(self, on_wait: Callable[[], object]) -> AbstractContextManager[None]:
        """Within it, `on_wait` is called before every request and each pause of it."""
        return self.patience.waiting(on_wait)

    def open_flow_run(self, name: str, values: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Start the parent run of a flow run; runs that killed processes of this host left open become KILLED."""
        for run in self._search("attributes.status = 'RUNNING' and tags.kind = 'flow'"):
            if is_gone(run.data.tags.get("owner", "")):
                self.ask("set_terminated", run.info.run_id, status="KILLED")
        request = uuid.uuid4().hex
        run = self.ask(
            "create_run",
            self.experiment_id,
            run_name=name,
            tags={"kind": "flow", "request": request, "owner": process_id(), **of_this_program(), **tags},
            found=lambda: next(iter(self._search(f"tags.request = '{request}'", ask=False)), None),
        )
        self._log(run.info.run_id, values=params(values))
        return str(run.info.run_id)

    def reopen_flow_run(self, run_id: str) -> str | None:
        """Let a parent run go on that was ended, or whose process died; None where it is gone."""
        try:
            self.ask("update_run", run_id, status="RUNNING")
            self.ask("set_tag", run_id, "owner", process_id())
        except MlflowException:
            return None
        return run_id

    def close_flow_run(self, run_id: str, status: str, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """End a parent run with its totals and files.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        end = now()
        self._log(run_id, metrics=numbers(metrics, end))
        for path in artifacts:
            if path.is_dir():
                self.ask("log_artifacts", run_id, str(path), path.name)
            else:
                self.ask("log_artifact", run_id, str(path))
        self.ask("set_terminated", run_id, status=status, end_time=end)

    def log_trials(
        self,
        parent_run_id: str | None,
        items: Iterable[TrialLog],
        *,
        look: bool = False,
        on_wait: Callable[[], object] | None = None,
    ) -> dict[str, str]:
        """Write the child runs of finished trials; returns run ids by fingerprint.

        A finished run of the fingerprint with the same adapter, or of a later attempt, is returned as it is; one whose
        adapter was made again is tagged `superseded_by_attempt`. What was left half-written is KILLED and deleted.

        Args:
            look: search MLflow also for runs of first attempts, as where a ledger is new or a run may have been
                deleted. Those of later attempts are always searched for.
            on_wait: called before each pause while MLflow is away.

        Raises:
            InputError: the store does not answer, or an adapter's files are gone.
        """
        items = list(items)
        for item in items:
            if item.folder is not None and not item.folder.is_dir():
                raise InputError(
                    f"trial {item.outcome.spec.label}: its adapter {item.folder} is gone. Remedy: restore the folder, "
                    "or `dept trials forget` the trial and run the plan again"
                )
        return {item.outcome.spec.fingerprint: self._trial(parent_run_id, item, look, on_wait) for item in items}

    def _trial(
        self, parent_run_id: str | None, item: TrialLog, look: bool, on_wait: Callable[[], object] | None
    ) -> str:
        fingerprint = item.outcome.spec.fingerprint
        known = self._written.get((fingerprint, item.attempt))
        if known is not None and not look:
            return known
        left: Run | None = None
        for run in self._runs_of(fingerprint) if look or item.attempt > 1 else ():
            theirs = int(run.data.tags.get("attempt", 0))
            same = run.data.tags.get("adapter_sha256") == item.outcome.adapter_sha256
            if run.info.status == "FINISHED":
                if same or theirs > item.attempt:
                    return str(run.info.run_id)
                self.ask("set_tag", run.info.run_id, "superseded_by_attempt", str(item.attempt), on_wait=on_wait)
            elif run.info.status in _OPEN:
                if theirs > item.attempt:
                    return str(run.info.run_id)  # this attempt has been overtaken: the ledger refuses it
                if theirs == item.attempt and run.data.tags.get("owner") == process_id():
                    left = run
                else:
                    self.ask("set_terminated", run.info.run_id, status="KILLED", on_wait=on_wait)
                    self.ask("delete_run", run.info.run_id, on_wait=on_wait)
        return self._write(parent_run_id, item, left, on_wait)

    def _write(
        self, parent_run_id: str | None, item: TrialLog, left: Run | None, on_wait: Callable[[], object] | None
    ) -> str:
        """Four requests: the run with its tags and times, all numbers, the files, the end."""
        outcome = item.outcome
        # The times of a run that was begun stay: a number that is sent twice with one time is kept once.
        times = Times.of(item, left.info.start_time if left else None)
        tags = trial_tags(item, parent_run_id)

        def begun() -> Run | None:
            for run in self._runs_of(outcome.spec.fingerprint, ask=False):
                same = all(run.data.tags.get(key) == tags[key] for key in ("attempt", "owner"))
                if same and run.info.status in _OPEN and run.info.start_time == times.start:
                    return run
            return None

        run = left or self.ask(
            "create_run",
            self.experiment_id,
            start_time=times.start,
            run_name=outcome.spec.label,
            tags=tags,
            found=begun,
            on_wait=on_wait,
        )
        run_id = str(run.info.run_id)
        try:
            self._log(run_id, trial_metrics(outcome, times), trial_params(outcome.spec), on_wait=on_wait)
            if item.folder is not None:
                # Not by the client, which asks for the run again to learn its place.
                files: Any = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
                folder = str(item.folder)
                self.patience.ask(lambda: files.log_artifacts(folder, "adapter"), on_wait=on_wait)
            self.ask("set_terminated", run_id, status="FINISHED", end_time=times.end, on_wait=on_wait)
        except MlflowException:
            if self.ask("get_run", run_id, on_wait=on_wait).info.lifecycle_stage == "active":
                raise
            return run_id  # a later attempt has deleted it; the ledger refuses this one
        self._written[outcome.spec.fingerprint, item.attempt] = run_id
        return run_id

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Add or replace tags of a run."""
        self.ask("log_batch", run_id, tags=[RunTag(key, masked(value)) for key, value in tags.items()])

    def download(self, artifact_uri: str, folder: Path | None = None) -> Path:
        """Local path of an artifact; files of this machine are not copied when no folder is given."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        place = None if folder is None else str(folder)
        return Path(
            self.patience.ask(
                lambda: download_artifacts(artifact_uri=artifact_uri, tracking_uri=self.uri, dst_path=place)
            )
        )

    def link(self, run_id: str | None = None) -> str | None:
        """Page of a run, or of all runs, where a server shows them; without credentials."""
        if not self.is_server:
            return None
        runs = f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs"
        return f"{runs if run_id is None else f'{runs}/{run_id}'}?{MACHINE_LEARNING}"

    def _runs_of(self, fingerprint: str, ask: bool = True) -> list[Run]:
        return self._search(f"tags.fingerprint = '{fingerprint}'", ask)

    def _search(self, query: str, ask: bool = True) -> list[Run]:
        """All runs that a query finds; `ask` False: silence is raised at once, to one who waits already."""
        found: list[Run] = []
        token = None
        while True:
            client: Callable[[], Any] = partial(
                self.client.search_runs, [self.experiment_id], filter_string=query, page_token=token
            )
            page = self.patience.ask(client) if ask else client()
            found += page
            token = page.token
            if not token:
                return found

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        values: Sequence[Param] = (),
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        """Parameters and metrics, together as long as one request takes them."""
        for start in range(0, max(len(metrics), 1), _BATCH):
            few = values[:100] if start == 0 else ()
            if few or metrics:
                self.ask("log_batch", run_id, metrics=metrics[start : start + _BATCH], params=few, on_wait=on_wait)
        for start in range(100, len(values), 100):
            self.ask("log_batch", run_id, params=values[start : start + 100], on_wait=on_wait)

    def _open_experiment(self) -> str:
        found: Experiment | None = self.ask("get_experiment_by_name", self.experiment)
        if found is None:
            place = None if self.is_server else (home() / "artifacts").as_uri()
            try:
                return str(self.ask("create_experiment", self.experiment, artifact_location=place))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.ask("get_experiment_by_name", self.experiment)  # another process was quicker
                assert found is not None
        if found.lifecycle_stage == "deleted":
            self.ask("restore_experiment", found.experiment_id)
        return str(found.experiment_id)
