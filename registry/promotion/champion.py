"""Which adapter answers for a task: champion and challenger, decided by scores, with an audit trail."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dept.trial import TrialOutcome
from infra.errors import InputError
from infra.settings import home
from registry.ledger import Ledger
from registry.ledger.schema import DecisionRow
from registry.serving import ADAPTER_PATH, CHAMPION, MODEL_PATH, log_model, model_name
from registry.store import Store
from registry.tracking import Tracker
from tasks.spec import Task

__all__ = ["CHAMPION", "Champion", "Decision", "Scores", "challenge", "champion", "crown", "keep", "model_name"]

SCORE = "score"
_MOVED = ("first", "promoted")
_TOLD = ("decision", "reason", "champion_version", "champion_score", "challenger_score", "rows_hash", "rows", "margin")


@dataclass(frozen=True)
class Champion:
    """The version that answers for a registered model. `validation` is percent; the folder is a local copy."""

    name: str
    version: str
    fingerprint: str
    adapter_folder: Path
    run_id: str
    validation: float
    created_at: datetime


@dataclass(frozen=True)
class Scores:
    """What one adapter scored on test rows. `score` is percent; `rows_hash` says which rows, in which order."""

    score: float
    rows_hash: str
    rows: int


@dataclass(frozen=True)
class Decision:
    """One decision: first (there was no champion), promoted, kept or not-stale."""

    model: str
    task: str
    decision: str
    reason: str
    champion_version: str | None
    champion_score: float | None
    challenger_fingerprint: str | None
    challenger_version: str | None
    challenger_score: float | None
    rows_hash: str | None
    rows: int | None
    margin: float | None
    at: datetime

    @classmethod
    def of(cls, row: DecisionRow) -> Decision:
        """The decision that a ledger row holds."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


def champion(tracker: Tracker, name: str) -> Champion | None:
    """The champion of a registered model; None where there is none."""
    found = _champion_version(tracker, name)
    return None if found is None else _as_champion(tracker, found)


def crown(tracker: Tracker, ledger: Ledger, outcome: TrialOutcome, task: Task) -> Decision:
    """Register an adapter as a version; make it champion if there is none or its validation score is better.

    The test score plays no part. Calling it again for the same fingerprint makes no second version and no second
    decision, and completes what a kill interrupted.

    Raises:
        InputError: the trial has no MLflow run yet, is not in the ledger, or a store does not answer.
    """
    name = model_name(outcome.spec.backbone, outcome.spec.task)
    with _one_at_a_time(name):
        mine = _register(tracker, ledger, name, outcome, task)
        past = _decided(tracker, ledger, mine)
        if past:
            return _complete(tracker, ledger, mine, past[-1])
        reigning, score = _champion_version(tracker, name), _validation(outcome)
        before = None if reigning is None else float(reigning.tags.get("validation", "nan"))
        if reigning is None or before is None:
            verdict, reason = "first", f"no champion before; validation {score:.2f}"
        elif _better(score, before, 0.0):
            verdict, reason = "promoted", f"validation {score:.2f} is better than {before:.2f}"
        else:
            verdict, reason = "kept", f"validation {score:.2f} is not better than {before:.2f}"
        return _decide(
            tracker,
            ledger,
            mine,
            verdict,
            reason,
            task=outcome.spec.task,
            champion_score=before,
            champion_version=None if reigning is None else str(reigning.version),
            challenger_score=score,
        )


def challenge(
    tracker: Tracker,
    ledger: Ledger,
    name: str,
    champion_scores: Scores,
    challenger_scores: Scores,
    margin: float,
    *,
    outcome: TrialOutcome,
    task: Task,
) -> Decision:
    """Let a retrained adapter challenge the champion: it must be better by more than `margin` (points of percent).

    Args:
        name: registered model.
        champion_scores: what the champion scored; challenger_scores: the same for the challenger, on the same rows.
        outcome: the challenger, already logged.

    Raises:
        InputError: scores of different rows, a negative margin, no champion to challenge, or as `crown`.
    """
    if (champion_scores.rows_hash, champion_scores.rows) != (challenger_scores.rows_hash, challenger_scores.rows):
        raise InputError(
            f"{name}: champion and challenger were scored on different test rows "
            f"({champion_scores.rows_hash[:12]}, {champion_scores.rows} rows; "
            f"{challenger_scores.rows_hash[:12]}, {challenger_scores.rows} rows). Remedy: score both on "
            "the same rows"
        )
    if not margin >= 0:
        raise InputError(f"{name}: the margin {margin} must not be negative")
    with _one_at_a_time(name):
        reigning = _champion_version(tracker, name)
        if reigning is None:
            raise InputError(f"{name}: no champion to challenge. Remedy: crown a first one with dept run")
        rows_hash = challenger_scores.rows_hash
        mine = _register(tracker, ledger, name, outcome, task)
        past = [
            row
            for row in _decided(tracker, ledger, mine)
            if row.rows_hash == rows_hash
            and row.margin == margin
            and str(reigning.version) in (row.champion_version, row.challenger_version)
        ]
        if past:
            return _complete(tracker, ledger, mine, past[-1])
        old, new = champion_scores.score, challenger_scores.score
        verdict = "promoted" if _better(new, old, margin) else "kept"
        reason = (
            f"test {new:.2f} against {old:.2f} on {challenger_scores.rows} rows: "
            f"{'more' if verdict == 'promoted' else 'not more'} than {margin:g} points better"
        )
        return _decide(
            tracker,
            ledger,
            mine,
            verdict,
            reason,
            task=outcome.spec.task,
            champion_score=old,
            champion_version=str(reigning.version),
            challenger_score=new,
            rows_hash=rows_hash,
            rows=challenger_scores.rows,
            margin=margin,
        )


def keep(ledger: Ledger, reigning: Champion, task: str, reason: str) -> Decision:
    """Record that a champion is not stale and stays without a challenge."""
    return Decision.of(
        ledger.record_decision(
            reigning.name,
            task,
            "not-stale",
            reason,
            champion_version=reigning.version,
            champion_score=reigning.validation,
        )
    )


def _validation(outcome: TrialOutcome) -> float:
    older = outcome.validation.get("accuracy", math.nan)  # outcomes of before there were other metrics
    return float(outcome.validation.get(SCORE, older))


def _better(new: float, old: float, margin: float) -> bool:
    """NaN never wins, and never keeps a throne."""
    return new > old + margin or (math.isnan(old) and not math.isnan(new))


def _champion_version(tracker: Tracker, name: str) -> ModelVersion | None:
    try:
        found = tracker.ask("get_model_version_by_alias", name, CHAMPION)
    except MlflowException as error:
        # An alias that is missing is an invalid parameter to MLflow, a model that is missing a missing resource.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return found  # type: ignore[no-any-return]


def _as_champion(tracker: Tracker, version: ModelVersion) -> Champion:
    fingerprint = version.tags.get("fingerprint", "")
    source = f"{version.source}/{ADAPTER_PATH.removeprefix(MODEL_PATH + '/')}"
    cache = home() / "champions" / fingerprint if tracker.is_server else None
    return Champion(
        name=version.name,
        version=str(version.version),
        fingerprint=fingerprint,
        adapter_folder=tracker.download(source, cache),
        run_id=str(version.run_id),
        validation=float(version.tags.get("validation", "nan")),
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
    )


def _register(tracker: Tracker, ledger: Ledger, name: str, outcome: TrialOutcome, task: Task) -> ModelVersion:
    fingerprint = outcome.spec.fingerprint
    if ledger.get(fingerprint) is None:
        raise InputError(f"{name}: trial {outcome.spec.label} is not in the ledger. Remedy: add it first")
    try:
        tracker.ask(
            "create_registered_model",
            name,
            description=task.description,
            tags={"task": task.name, "license": task.license, "url": task.url, "citation": task.citation},
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in tracker.ask("search_model_versions", f"name = '{name}' and tags.fingerprint = '{fingerprint}'"):
        return version  # type: ignore[no-any-return]
    folder = Store.open().fetch(outcome.adapter_key)
    run_id = tracker.log_trial(None, outcome, folder)  # finds its run, or writes it again where the store was replaced
    source = log_model(tracker, run_id, folder)
    tags = {
        "fingerprint": fingerprint,
        "validation": repr(_validation(outcome)),
        "task": task.name,
        "task_version": outcome.spec.task_version,
        "data_hash": outcome.spec.data_hash,
        "backbone": outcome.spec.backbone,
        "backbone_id": outcome.spec.backbone_id,
        "adapter_sha256": outcome.adapter_sha256,
        "init": outcome.spec.init,
        "shots": outcome.spec.shots or "all",
    }
    made: ModelVersion = tracker.ask(
        "create_model_version",
        name,
        source,
        run_id,
        description=outcome.spec.label,
        tags={key: str(value) for key, value in tags.items()},
    )
    tracker.set_tags(run_id, {"registered_model": name, "registered_version": made.version})
    return made


def _decided(tracker: Tracker, ledger: Ledger, mine: ModelVersion) -> list[DecisionRow]:
    """Decisions about this version; one made before the version is of an earlier store, and counts no more."""
    clocks = 60.0 if tracker.is_server else 0.0  # seconds that a server's clock may be ahead
    made = datetime.fromtimestamp(mine.creation_timestamp / 1000 - clocks, UTC)
    return [
        row
        for row in ledger.decisions(mine.name)
        if row.challenger_version == str(mine.version)
        and row.challenger_fingerprint == mine.tags["fingerprint"]
        and row.at >= made
    ]


def _decide(
    tracker: Tracker, ledger: Ledger, mine: ModelVersion, verdict: str, reason: str, task: str, **numbers: Any
) -> Decision:
    """Record first, move the alias last: a kill between the two is seen and completed by `_complete`."""
    row = ledger.record_decision(
        mine.name,
        task,
        verdict,
        reason,
        challenger_version=str(mine.version),
        challenger_fingerprint=mine.tags["fingerprint"],
        **numbers,
    )
    return _complete(tracker, ledger, mine, row)


def _complete(tracker: Tracker, ledger: Ledger, mine: ModelVersion, row: DecisionRow) -> Decision:
    at = row.at.isoformat()
    if mine.tags.get("decision.at") != at:
        for key in _TOLD:
            if (value := getattr(row, key)) is not None:
                tracker.ask("set_model_version_tag", mine.name, mine.version, f"decision.{key}", str(value))
        moves = [one for one in ledger.decisions(mine.name) if one.decision in _MOVED]
        if moves and moves[-1].id == row.id:
            tracker.ask("set_registered_model_alias", mine.name, CHAMPION, mine.version)
        # Last of all: it says that the decision was carried out, so an alias moved by hand later stays where it is.
        tracker.ask("set_model_version_tag", mine.name, mine.version, "decision.at", at)
    return Decision.of(row)


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
