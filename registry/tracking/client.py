"""What all that writes to MLflow stands on: one experiment, its requests repeated while the store is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from infra.secrets import masked
from infra.settings import home, settings
from registry.tracking.notes import EXPERIMENT, NOTE
from registry.tracking.opening import is_server, open_store, without_credentials
from registry.tracking.patience import Patience
from registry.tracking.views import saved_views

OPENING_SECONDS = 5.0  # a dead address is named soon; one that has answered is waited for
BATCH = 900  # MLflow takes at most 1,000 metrics and 100 parameters in one request


class Client:
    """One MLflow experiment. Touches no active run of the process.

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

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Add or replace tags of a run."""
        self.ask("log_batch", run_id, tags=[RunTag(key, masked(value)) for key, value in tags.items()])

    def search(self, query: str, ask: bool = True) -> list[Run]:
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

    def log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        values: Sequence[Param] = (),
        tags: Mapping[str, str] | None = None,
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        """Parameters, tags and metrics, together as long as one request takes them."""
        more = [RunTag(key, value) for key, value in (tags or {}).items()]
        for start in range(0, max(len(metrics), 1), BATCH):
            few, head = metrics[start : start + BATCH], start == 0
            told, named = (values[:100], more) if head else ((), ())
            if few or told or named:
                self.ask("log_batch", run_id, metrics=few, params=told, tags=named, on_wait=on_wait)
        for start in range(100, len(values), 100):
            self.ask("log_batch", run_id, params=values[start : start + 100], on_wait=on_wait)

    def _open_experiment(self) -> str:
        found: Experiment | None = self.ask("get_experiment_by_name", self.experiment)
        if found is None:
            place = None if self.is_server else (home() / "artifacts").as_uri()
            try:
                tags = {NOTE: EXPERIMENT, **saved_views()}
                return str(self.ask("create_experiment", self.experiment, artifact_location=place, tags=tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.ask("get_experiment_by_name", self.experiment)  # another process was quicker
                assert found is not None
        if found.lifecycle_stage == "deleted":
            self.ask("restore_experiment", found.experiment_id)
        if NOTE not in found.tags:  # of an older version; what a person wrote stays
            self.ask("set_experiment_tag", found.experiment_id, NOTE, EXPERIMENT)
        for name, value in saved_views().items():
            if name not in found.tags:
                self.ask("set_experiment_tag", found.experiment_id, name, value)
        return str(found.experiment_id)
