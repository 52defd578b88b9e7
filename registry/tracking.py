"""MLflow runs: one parent run per flow run, one child run per trial, with numbers, curves and adapter files."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException, RestException
from requests import ConnectionError as NoConnection
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.identity import is_gone, process_id
from infra.settings import home, settings

ATTEMPTS = 4
_BATCH = 900  # MLflow takes at most 1,000 metrics and 100 parameters in one request
_LONGEST = 500  # characters of a parameter that are shown
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OPEN = ("RUNNING", "SCHEDULED")
_SHAPE = ("adapter", "training")


class Tracker:
    """Writes runs to one MLflow experiment, over a database or a tracking server alike. Touches no active run.

    Args:
        uri: tracking URI; default $MLFLOW_TRACKING_URI, else the SQLite file home()/mlflow.db.
        experiment: its name; made where missing. With a database, artifacts lie under home()/artifacts; a server
            decides for itself.

    Raises:
        InputError: a store that does not answer or cannot be written.
    """

    def __init__(self, uri: str | None = None, experiment: str = "dept-transfer") -> None:
        self.uri = uri or settings().mlflow_tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"
        self.is_server = urlparse(self.uri).scheme in ("http", "https")
        _make_store(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.experiment = experiment
        self.experiment_id = self._open_experiment()

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the MLflow client; a store that does not answer is asked again a few times.

        Raises:
            InputError: it still does not answer.
            MlflowException: it answered with a refusal.
        """
        return self._patiently(getattr(self.client, method), *args, **kwargs)

    def open_flow_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Start the parent run of a flow run; runs that killed processes of this host left open become KILLED."""
        for run in self._search("attributes.status = 'RUNNING' and tags.kind = 'flow'"):
            if is_gone(run.data.tags.get("owner", "")):
                self.ask("set_terminated", run.info.run_id, status="KILLED")
        run = self.ask(
            "create_run",
            self.experiment_id,
            run_name=name,
            tags={"kind": "flow", "owner": process_id(), **_user(), **tags},
        )
        self._log(run.info.run_id, params=_params(params))
        return str(run.info.run_id)

    def close_flow_run(self, run_id: str, status: str, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """End a parent run with its totals and files.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        self._log(run_id, metrics=_metrics("", metrics, 0))
        for path in artifacts:
            if path.is_dir():
                self.ask("log_artifacts", run_id, str(path), path.name)
            else:
                self.ask("log_artifact", run_id, str(path))
        self.ask("set_terminated", run_id, status=status)

    def log_trial(
        self,
        parent_run_id: str | None,
        outcome: TrialOutcome,
        folder: Path,
        registered: Mapping[str, Any] | None = None,
    ) -> str:
        """Write the child run of a finished trial and return its id.

        A finished run of the same fingerprint is returned as it is. What a killed process left half-written is
        closed as KILLED, deleted and written anew.

        Args:
            folder: where the adapter lies.
            registered: further tags, such as the registered model's name and version.

        Raises:
            InputError: the store does not answer, or the adapter's files are gone.
        """
        spec = outcome.spec
        if not folder.is_dir():
            raise InputError(
                f"trial {spec.label}: its adapter {folder} is gone. Remedy: delete the "
                "trial's ledger row by starting a new DEPT_HOME, or restore the folder"
            )
        for run in self._search(f"tags.fingerprint = '{spec.fingerprint}'"):
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
            if run.info.status in _OPEN:
                self.ask("set_terminated", run.info.run_id, status="KILLED")
                self.ask("delete_run", run.info.run_id)
        now = int(time.time() * 1000)
        run_id = str(
            self.ask(
                "create_run",
                self.experiment_id,
                start_time=now - int(outcome.seconds * 1000),
                run_name=spec.label,
                tags=_tags(outcome, parent_run_id, registered or {}),
            ).info.run_id
        )
        self._log(run_id, params=_params(flatten(spec)), metrics=_numbers(outcome, now))
        self.ask("log_artifacts", run_id, str(folder), "adapter")
        self.ask("set_terminated", run_id, status="FINISHED")
        return run_id

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Add or replace tags of a run."""
        self._log(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def download(self, artifact_uri: str, folder: Path | None = None) -> Path:
        """Local path of an artifact; files of this machine are not copied when no folder is given."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return Path(
            self._patiently(
                download_artifacts,
                artifact_uri=artifact_uri,
                tracking_uri=self.uri,
                dst_path=None if folder is None else str(folder),
            )
        )

    def link(self, run_id: str) -> str | None:
        """Page of a run, where a server shows one."""
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}" if self.is_server else None

    def _search(self, query: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self.ask("search_runs", [self.experiment_id], filter_string=query, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _log(
        self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        for start in range(0, len(params), 100):
            self.ask("log_batch", run_id, params=params[start : start + 100])
        for start in range(0, len(metrics), _BATCH):
            self.ask("log_batch", run_id, metrics=metrics[start : start + _BATCH])
        if tags:
            self.ask("log_batch", run_id, tags=tags)

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

    def _patiently(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential(0.5, max=2), retry=retry_if_exception(_is_silence)
        )
        try:
            return attempts(call, *args, **kwargs)
        except RetryError as failed:
            error = failed.last_attempt.exception()
            raise InputError(
                f"MLflow {self.uri} does not answer ({str(error).splitlines()[0][:300]}). Remedy: start "
                "the server or mend its URI; adapters and numbers are safe in the ledger and the next "
                "run logs them"
            ) from error


def flatten(spec: TrialSpec) -> dict[str, Any]:
    """A spec as one level of parameters: m, r, s, alpha, steps, ... beside task, shots and seed."""
    body = spec.model_dump(mode="json")
    for name in _SHAPE:
        body |= body.pop(name)
    return body


def _is_silence(error: BaseException) -> bool:
    if isinstance(error, RestException):
        return bool(error.error_code == "TEMPORARILY_UNAVAILABLE")
    if isinstance(error, MlflowException):
        return error.error_code == "TEMPORARILY_UNAVAILABLE" or str(error).startswith("API request to")
    return isinstance(error, (ConnectionError, NoConnection))


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)[:_LONGEST]) for key, value in values.items() if value is not None]


def _metrics(prefix: str, values: Mapping[str, float], step: int, at: int | None = None) -> list[Metric]:
    stamp = int(time.time() * 1000) if at is None else at
    return [Metric(f"{prefix}{key}", float(value), stamp, step) for key, value in values.items()]


def _curve(key: str, points: Iterable[tuple[int, float]], at: int) -> list[Metric]:
    return [Metric(key, float(value), at, step) for step, value in points]


def _numbers(outcome: TrialOutcome, at: int) -> list[Metric]:
    cost = {
        name: getattr(outcome, name)
        for name in (
            "seconds",
            "tokens",
            "tokens_per_second",
            "peak_memory_mib",
            "trainable",
            "cut_rows",
            "padding",
            "steps_done",
        )
    }
    return [
        *_curve("train/loss", outcome.loss_curve, at),
        *_curve("validation/curve", outcome.validation_curve, at),
        *_metrics("validation/", outcome.validation, outcome.best_step, at),
        *_metrics("test/", outcome.test, outcome.best_step, at),
        *_metrics("cost/", cost, outcome.steps_done, at),
        Metric("best_step", float(outcome.best_step), at, outcome.best_step),
    ]


def _tags(outcome: TrialOutcome, parent: str | None, registered: Mapping[str, Any]) -> dict[str, str]:
    spec = outcome.spec
    tags = {
        "kind": "trial",
        "task": spec.task,
        "role": spec.role,
        "init": spec.init,
        "seed": spec.seed,
        "shots": "all" if spec.shots is None else spec.shots,
        "backbone": spec.backbone,
        "fingerprint": spec.fingerprint,
        "adapter_sha256": outcome.adapter_sha256,
        "owner": process_id(),
        "parent_adapter": spec.source_sha256,
        "mlflow.parentRunId": parent,
        **_user(),
        **registered,
    }
    return {key: str(value) for key, value in tags.items() if value is not None}


def _user() -> dict[str, str]:
    return {"mlflow.source.name": "dept-transfer", "mlflow.source.type": "LOCAL"}


def _make_store(uri: str) -> None:
    """Make an SQLite store's tables once: processes that meet a new file at the same time would race."""
    scheme = urlparse(uri).scheme
    if scheme.split("+")[0] not in (*_DATABASES, "http", "https"):
        raise InputError(
            f"MLflow: {uri!r} is no tracking URI of a server or database. Remedy: http://host:port or "
            "sqlite:////folder/mlflow.db"
        )
    if scheme.split("+")[0] != "sqlite":
        return
    try:
        name = make_url(uri).database
        if not name:
            raise InputError(f"MLflow: {uri!r} names no file. Remedy: sqlite:////folder/mlflow.db")
        file = Path(name).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            # MLflow reports each of its 50 migrations of a new file.
            for noisy in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
            with sqlite3.connect(file) as connection:
                connection.execute("pragma journal_mode = wal")
            connection.close()
    except (SQLAlchemyError, OSError, sqlite3.Error, MlflowException) as error:
        raise InputError(
            f"MLflow store {uri}: cannot be opened ({str(error).splitlines()[0]}). Remedy: check the path "
            "and free space, or move a damaged file away"
        ) from error
