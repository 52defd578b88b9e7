"""The one MLflow experiment that runs are written to, over a database or a tracking server alike."""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from dept.trial import TrialSpec
from infra.identity import is_gone, process_id
from infra.mlflow_page import run_page, runs_page
from infra.settings import settings
from registry.tracking.client import Client
from registry.tracking.datasets import Rows
from registry.tracking.live import Live
from registry.tracking.notes import NOTE, of_this_program
from registry.tracking.system import SystemMetrics
from registry.tracking.trial_run import TrialLog, cleaned, now, numbers, params
from registry.tracking.trials import TrialRuns

RACES = 5  # runs that begin at once may enter the same data set; MLflow refuses all but the first
MOST_DATASETS = 50  # in one request; their row ids go with them
_log = logging.getLogger(__name__)


class Tracker(Client):
    """Writes runs to one MLflow experiment; see `Client` for its arguments and what they raise."""

    def __init__(
        self, uri: str | None = None, experiment: str = "dept-transfer", patience: float | None = None
    ) -> None:
        super().__init__(uri, experiment, patience)
        self.trials, self.system = TrialRuns(self), SystemMetrics(self.uri)

    def open_flow_run(
        self,
        name: str,
        values: Mapping[str, Any],
        tags: Mapping[str, str],
        note: str = "",
        datasets: Iterable[Rows] = (),
    ) -> str:
        """Start the parent run of a flow run; runs that killed processes of this host left open become KILLED.

        Args:
            values: its parameters; None is left out.
            note: its description, Markdown.
            datasets: that it works with.
        """
        for run in self.search("attributes.status = 'RUNNING' and tags.kind = 'flow'"):
            if is_gone(run.data.tags.get("owner", "")):
                self.ask("set_terminated", run.info.run_id, status="KILLED")
        request = uuid.uuid4().hex
        own = {"kind": "flow", "request": request, "owner": process_id(), NOTE: note, **of_this_program(), **tags}
        run = self.ask(
            "create_run",
            self.experiment_id,
            run_name=name,
            tags=cleaned(own),
            found=lambda: next(iter(self.search(f"tags.request = '{request}'", ask=False)), None),
        )
        self.log(run.info.run_id, values=params(values))
        self.log_datasets(run.info.run_id, datasets)
        self.system.own.add(str(run.info.run_id))
        return str(run.info.run_id)

    def log_datasets(self, run_id: str, datasets: Iterable[Rows]) -> None:
        """Say which data sets a run works with."""
        found = [rows.entity() for rows in datasets]
        for start in range(0, len(found), MOST_DATASETS):
            again = Retrying(
                stop=stop_after_attempt(RACES), retry=retry_if_exception(_was_made_meanwhile), reraise=True
            )
            again(self.ask, "log_inputs", run_id, datasets=found[start : start + MOST_DATASETS])

    def reopen_flow_run(self, run_id: str) -> str | None:
        """Let a parent run go on that was ended, or whose process died; None where it is gone."""
        try:
            self.ask("update_run", run_id, status="RUNNING")
            self.ask("set_tag", run_id, "owner", process_id())
        except MlflowException:
            return None
        return run_id

    def close_flow_run(
        self,
        run_id: str,
        status: str,
        metrics: Mapping[str, float],
        artifacts: Sequence[Path],
        note: str = "",
        tables: Sequence[str] = (),
    ) -> None:
        """End a parent run with its totals and files; one that a person has deleted stays as it is.

        Args:
            status: FINISHED, FAILED or KILLED.
            note: its description from now on, Markdown; "" leaves what stands there.
            tables: names of artifacts (`.json`, columns and data) that MLflow's page shows beside those of other runs.
        """
        end = now()
        self.system.end(run_id)
        shown = json.dumps([{"path": name, "type": "table"} for name in tables]) if tables else ""
        with self._unless_deleted(run_id):
            self.log(run_id, metrics=numbers(metrics, end))
            if told := cleaned({NOTE: note, "mlflow.loggedArtifacts": shown}):
                self.set_tags(run_id, told)
            for path in artifacts:
                if path.is_dir():
                    self.ask("log_artifacts", run_id, str(path), path.name)
                else:
                    self.ask("log_artifact", run_id, str(path))
            self.ask("set_terminated", run_id, status=status, end_time=end)

    @contextlib.contextmanager
    def _unless_deleted(self, run_id: str) -> Iterator[None]:
        """Bear it where MLflow takes nothing for a run that a person has deleted: what is recorded elsewhere counts."""
        try:
            yield
        except MlflowException:
            try:
                deleted = self.ask("get_run", run_id).info.lifecycle_stage == "deleted"
            except MlflowException as error:
                deleted = error.error_code == "RESOURCE_DOES_NOT_EXIST"
            if not deleted:
                raise
            _log.warning("MLflow: somebody has deleted run %s; nothing more is written to it", run_id)

    def log_trials(
        self,
        parent_run_id: str | None,
        items: Iterable[TrialLog],
        *,
        look: bool = False,
        on_wait: Callable[[], object] | None = None,
    ) -> dict[str, str]:
        """Write the child runs of finished trials; returns run ids by fingerprint. See `registry.tracking.trials`."""
        return self.trials.log(parent_run_id, list(items), look=look, on_wait=on_wait)

    def live(
        self, parent_run_id: str, trials: Mapping[str, tuple[TrialSpec, int]], provenance: Mapping[str, Any]
    ) -> Live:
        """Show the curves of trials while they train; see `registry.tracking.live.Live`."""
        return Live(self.trials, self.system, parent_run_id, trials, provenance)

    def fail(self, run_id: str, reason: str) -> None:
        """End the run of a trial that has failed; one that a person has deleted stays as it is."""
        with self._unless_deleted(run_id):
            self.set_tags(run_id, {NOTE: f"Failed: {reason}", "failure": reason})
            self.ask("set_terminated", run_id, status="FAILED")

    def discard(self, run_id: str) -> None:
        """Delete a run that was begun for nothing; one that is gone already is no error."""
        with contextlib.suppress(MlflowException):
            self.ask("delete_run", run_id)

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
        """Page of a run, or of all runs, where a server shows them, as browsers reach it; without credentials."""
        at = settings().mlflow_page or (self.uri if self.is_server else "")
        return f"{at.rstrip('/')}/{self.place(run_id)}" if at else None

    def place(self, run_id: str | None = None) -> str:
        """The same page, for links between pages of one server."""
        return runs_page(self.experiment_id) if run_id is None else run_page(self.experiment_id, run_id)


def _was_made_meanwhile(error: BaseException) -> bool:
    """Whether another run has entered the same data set between MLflow's look and its write; then it will be found."""
    said = str(error)
    twice = "UNIQUE constraint failed" in said or "duplicate key value" in said
    return isinstance(error, MlflowException) and "dataset" in said and twice
