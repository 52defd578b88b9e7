"""Registered models in MLflow: one per task and weights, a version for each champion and the last challenger."""

from __future__ import annotations

from collections.abc import Container, Mapping

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from registry.ledger.schema import DecisionRow
from registry.promotion import pages
from registry.promotion.model import (
    Logged,
    code_sha256,
    fields_of,
    is_whole,
    log_backbone_model,
    log_model,
    logged_models,
    picture_column,
)
from registry.promotion.names import CHAMPION, all_tasks_name
from registry.promotion.rows import Stores
from registry.tracking import Tracker, TrialLog
from registry.tracking.trial_run import reached_metrics, trial_params
from tasks.catalogue import catalogue
from tasks.spec import Task

MODEL_ID = "model_id"  # tag of a version: its LoggedModel, which MLflow's own databases do not keep
OLD_PATH = "model"  # of versions from before LoggedModels, among the artifacts of their run
_TOLD = ("decision", "reason", "champion_version", "champion_score", "challenger_score", "rows", "rows_hash")
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


def models_of_backbone(tracker: Tracker, backbone_id: str) -> list[RegisteredModel]:
    """The registered models on these weights, with their aliases; one request for a thousand."""
    found: list[RegisteredModel] = []
    query, token = f"tags.backbone_id = '{backbone_id}'", None
    while True:
        page = tracker.ask("search_registered_models", query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


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
    return _by_tag(tracker, name, "fingerprint", fingerprint)


def _by_tag(tracker: Tracker, name: str, tag: str, value: str) -> ModelVersion | None:
    found = tracker.ask("search_model_versions", f"name = '{name}' and tags.{tag} = '{value}'")
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
    _open_model(tracker, name, pages.of_model(spec, task), tags)
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
    _drop_half_made(tracker, spec.fingerprint)
    logged = log_model(tracker, run_id, folder, _logged(name, outcome))
    made: ModelVersion = tracker.ask(
        "create_model_version",
        name,
        logged.artifact_location,
        run_id,
        description=pages.of_version(outcome),
        tags={**_tags(outcome), MODEL_ID: logged.model_id},
        model_id=logged.model_id,
        found=lambda: by_fingerprint(tracker, name, spec.fingerprint),
    )
    tracker.set_tags(run_id, {"registered_model": name, "registered_version": made.version})
    return made


def register_all_tasks(stores: Stores, spec: TrialSpec, run_id: str) -> ModelVersion:
    """The model that answers for every task of a backbone; a new version where a task has fields that it lacks.

    Args:
        run_id: MLflow run whose output it is, where this process has no parent run.

    Raises:
        InputError: a store that does not answer.
    """
    name, mine = all_tasks_name(spec.backbone, spec.backbone_id), stores.tasks.get(spec.task)
    wanted = set(_columns(mine)) if mine is not None else set()
    known = by_alias(stores.tracker, name, CHAMPION)
    if known is not None and _answers_for(stores.tracker, known, wanted):
        return known
    lock = f"all-tasks:{spec.backbone_id}"  # of two who make one at once each would leave out the other's fields
    with stores.ledger.lock(lock) as held, stores.tracker.waiting(held.waits):
        known = by_alias(stores.tracker, name, CHAMPION)
        if known is not None and _answers_for(stores.tracker, known, wanted):
            return known
        return _all_tasks_anew(stores, spec, run_id, name, wanted | _fields(known))


def _fields(version: ModelVersion | None) -> set[str]:
    return set(version.tags.get("fields", "").split(",")) if version is not None else set()


def _columns(task: Task) -> tuple[str, ...]:
    """What a row of a task is asked with."""
    fields = fields_of(task.template)
    return (*fields, picture_column(fields)) if task.sees else fields


def _answers_for(tracker: Tracker, version: ModelVersion, fields: set[str]) -> bool:
    same = fields <= _fields(version) and version.tags.get("code") == code_sha256()[:12]
    return same and _whole(tracker, version)


def _all_tasks_anew(stores: Stores, spec: TrialSpec, run_id: str, name: str, has: set[str]) -> ModelVersion:
    tracker = stores.tracker
    text = pages.of_all_tasks(spec.backbone, spec.backbone_id)
    _open_model(tracker, name, text, {"all_tasks_of": spec.backbone_id})
    shipped = {column for task in (*catalogue().values(), *stores.tasks.values()) for column in _columns(task)}
    fields = sorted((has | shipped) - {"", "task"}, key=lambda field: (field != "text", field))
    served = {"backbone": spec.backbone, "backbone_id": spec.backbone_id}
    tags = {**served, "fields": ",".join(fields), "code": code_sha256()[:12], "kind": "all-tasks"}
    run_id = stores.parent_run or run_id
    logged = log_backbone_model(tracker, run_id, Logged(name, tags), served, fields, spec.task)
    made: ModelVersion = tracker.ask(
        "create_model_version",
        name,
        logged.artifact_location,
        run_id,
        description=text,
        tags={**tags, MODEL_ID: logged.model_id},
        model_id=logged.model_id,
        found=lambda: _by_tag(tracker, name, MODEL_ID, logged.model_id),
    )
    move(tracker, made, CHAMPION)
    return made


def _open_model(tracker: Tracker, name: str, description: str, tags: Mapping[str, str]) -> None:
    try:
        tracker.ask("create_registered_model", name, description=description, tags=dict(tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _drop_half_made(tracker: Tracker, fingerprint: str) -> None:
    """Delete LoggedModels that a killed process left without their files."""
    for model in logged_models(tracker, "fingerprint", fingerprint):
        if model.status != "READY":
            tracker.ask("delete_logged_model", model.model_id)


def _logged(name: str, outcome: TrialOutcome) -> Logged:
    spec = outcome.spec
    params = {param.key: param.value for param in trial_params(spec)}
    tags = {key: value for key, value in _tags(outcome).items() if value}
    return Logged(name, tags, params, reached_metrics(outcome))


def move(tracker: Tracker, version: ModelVersion, alias: str) -> None:
    """Give a version an alias."""
    tracker.ask("set_registered_model_alias", version.name, alias, version.version)


def drop_alias(tracker: Tracker, name: str, alias: str) -> None:
    """Take an alias away, where there is one."""
    if by_alias(tracker, name, alias) is not None:
        tracker.ask("delete_registered_model_alias", name, alias)


def tell(tracker: Tracker, version: ModelVersion, row: DecisionRow) -> None:
    """Write a decision into a version's page and tags, `decision.at` last: it says that it was carried out."""
    about = {key: getattr(row, key) for key in _TOLD} | {"at": row.at.isoformat()}
    if version.tags.get("decision.at") != about["at"]:
        text = pages.with_decision(version.description or "", row)
        tracker.ask("update_model_version", version.name, version.version, text)
    for key, value in about.items():
        if value is not None and version.tags.get(f"decision.{key}") != str(value):
            tracker.ask("set_model_version_tag", version.name, version.version, f"decision.{key}", str(value))


def tell_of_champion(stores: Stores, row: DecisionRow, spec: TrialSpec) -> None:
    """Write who answers since when into the page of the registered model."""
    text = pages.with_decision(pages.of_champion(spec, stores.tasks.get(spec.task)), row)
    stores.tracker.ask("update_registered_model", row.model, text)


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
        if version.run_id and tracker.ask("get_run", version.run_id).info.lifecycle_stage != "active":
            return False
        if model_id := version.tags.get(MODEL_ID):
            return is_whole(tracker, model_id)
        return any(item.path.endswith("MLmodel") for item in tracker.ask("list_artifacts", version.run_id, OLD_PATH))
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
