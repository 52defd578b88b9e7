"""Registered models in MLflow: one per task and weights, a version for each champion and the last challenger."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dept.trial import TrialOutcome
from infra.errors import InputError
from registry.promotion.model import MODEL_PATH, log_model
from registry.promotion.names import CHAMPION
from registry.promotion.rows import Stores
from registry.tracking import Tracker, TrialLog

# MLflow calls a missing alias an invalid parameter, a missing model or version a missing resource.
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def of_task(task: str) -> str:
    """MLflow's filter for what a task is the subject of.

    Raises:
        InputError: a name that no task has; MLflow's filters know no way to write a quote.
    """
    if "'" in task:
        raise InputError(f"task {task}: no task is called so. Remedy: `dept tasks` lists them")
    return f"tags.task = '{task}'"


def find_model(tracker: Tracker, task: str, backbone_id: str) -> str | None:
    """The registered model of a task and weights, whatever it is called; None where there is none."""
    found = tracker.ask("search_registered_models", f"{of_task(task)} and tags.backbone_id = '{backbone_id}'")
    return str(min(found, key=lambda model: model.creation_timestamp).name) if found else None


def models_of(tracker: Tracker, task: str) -> dict[str, str]:
    """The registered models of a task: sha256 of their weights -> name."""
    found = tracker.ask("search_registered_models", of_task(task))
    return {model.tags["backbone_id"]: str(model.name) for model in found if "backbone_id" in model.tags}


def by_alias(tracker: Tracker, name: str, alias: str) -> ModelVersion | None:
    """The version that has an alias; None where no version, or no model of this name, is there."""
    try:
        found: ModelVersion = tracker.ask("get_model_version_by_alias", name, alias)
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise
    return found


def by_number(tracker: Tracker, name: str, version: str) -> ModelVersion | None:
    """A version; None where there is none."""
    try:
        found: ModelVersion = tracker.ask("get_model_version", name, version)
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise
    return found


def by_fingerprint(tracker: Tracker, name: str, fingerprint: str) -> ModelVersion | None:
    """The version of an adapter; None where there is none."""
    found = tracker.ask("search_model_versions", f"name = '{name}' and tags.fingerprint = '{fingerprint}'")
    return next(iter(found), None)


def register(stores: Stores, name: str, outcome: TrialOutcome) -> ModelVersion:
    """The version of an adapter; made where it is missing, or where MLflow has lost its run or its files.

    Raises:
        InputError: an adapter that the store has lost, or a store that does not answer.
    """
    tracker, spec = stores.tracker, outcome.spec
    task = stores.tasks.get(spec.task)
    about = {"license": task.license, "url": task.url, "citation": task.citation} if task else {}
    tags = {"task": spec.task, "backbone_id": spec.backbone_id, **about}
    try:
        tracker.ask("create_registered_model", name, description=task.description if task else "", tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = by_fingerprint(tracker, name, spec.fingerprint)
    if known is not None:
        same = all(known.tags.get(key, "") == getattr(outcome, key) for key in ("adapter_sha256", "files_sha256"))
        if same and _whole(tracker, known):
            return known
        tracker.ask("delete_model_version", name, known.version)
    folder = stores.store.fetch(outcome.adapter_key, outcome.files_sha256)
    row = stores.ledger.get(spec.fingerprint)
    attempt, parent = (row.attempt if row else 1), stores.parent_run or None
    log = TrialLog(outcome, attempt=attempt, folder=folder)
    run_id = tracker.log_trials(parent, [log], look=True)[spec.fingerprint]
    if row is not None and row.mlflow_run_id != run_id:
        stores.ledger.logged_again(spec.fingerprint, attempt, run_id)
    made: ModelVersion = tracker.ask(
        "create_model_version",
        name,
        log_model(tracker, run_id, folder),
        run_id,
        description=spec.label,
        tags=_tags(outcome),
        found=lambda: by_fingerprint(tracker, name, spec.fingerprint),
    )
    tracker.set_tags(run_id, {"registered_model": name, "registered_version": made.version})
    return made


def move(tracker: Tracker, version: ModelVersion, alias: str) -> None:
    """Give a version an alias."""
    tracker.ask("set_registered_model_alias", version.name, alias, version.version)


def drop_alias(tracker: Tracker, name: str, alias: str) -> None:
    """Take an alias away, where there is one."""
    if by_alias(tracker, name, alias) is not None:
        tracker.ask("delete_registered_model_alias", name, alias)


def tell(tracker: Tracker, version: ModelVersion, about: Mapping[str, Any]) -> None:
    """Write a decision into a version's tags, `decision.at` last: it says that the decision was carried out."""
    for key in sorted(about, key=lambda key: key == "at"):
        if about[key] is not None and version.tags.get(f"decision.{key}") != str(about[key]):
            tracker.ask("set_model_version_tag", version.name, version.version, f"decision.{key}", str(about[key]))


def tidy(tracker: Tracker, name: str, keep: Container[str]) -> None:
    """Take away versions that lost and were never champion.

    Args:
        keep: fingerprints of adapters that were champion, and of the challenger of the last decision.
    """
    champion = by_alias(tracker, name, CHAMPION)  # a person may have moved it
    for version in tracker.ask("search_model_versions", f"name = '{name}'"):
        answers = champion is not None and version.version == champion.version
        if not answers and version.tags.get("fingerprint") not in keep:
            tracker.ask("delete_model_version", name, version.version)


def _whole(tracker: Tracker, version: ModelVersion) -> bool:
    """Whether a version's run and files are still there: people delete runs, and MLflow's gc then takes the files."""
    try:
        if tracker.ask("get_run", version.run_id).info.lifecycle_stage != "active":
            return False
        return any(item.path.endswith("MLmodel") for item in tracker.ask("list_artifacts", version.run_id, MODEL_PATH))
    except MlflowException:
        return False


def _tags(outcome: TrialOutcome) -> dict[str, str]:
    spec = outcome.spec
    tags = {
        "fingerprint": spec.fingerprint,
        "adapter_sha256": outcome.adapter_sha256,
        "files_sha256": outcome.files_sha256,
        "task": spec.task,
        "task_version": spec.task_version,
        "data_hash": spec.data_hash,
        "backbone": spec.backbone,
        "backbone_id": spec.backbone_id,
        "dtype": spec.dtype or "",
        "variant": spec.variant,
        "shots": spec.shots or "all",
        "validation": outcome.validation.get("score", outcome.validation.get("accuracy", "nan")),
    }
    return {key: str(value) for key, value in tags.items()}
