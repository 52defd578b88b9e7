"""Who is champion: MLflow's alias where it stands, else the ledger's last decision. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from infra.errors import InputError
from infra.names import safe_name
from infra.settings import home
from registry.ledger import Ledger
from registry.ledger.schema import DecisionRow
from registry.promotion import versions
from registry.promotion.model import ADAPTER_PATH
from registry.promotion.names import CHAMPION
from registry.store import LostFileError, Store, digest_of
from registry.tracking import Tracker

MOVES = ("first", "promoted", "by-hand", "rolled-back")  # decisions after which another adapter answers
OF_FIRST_VERSION = "{} was registered by version 0.1.0; `dept run` of its plan takes it over, and compares it"


@dataclass(frozen=True)
class Champion:
    """The adapter that answers for a task on a backbone.

    Attributes:
        name: registered model. version: None where MLflow has lost it. source: URI of its model in MLflow.
        backbone: as it was called when the adapter was trained. dtype: None in ledgers of 0.1.0.
        adapter_key: its place in the store; None where the ledger does not know it.
        files_sha256: of all files of its adapter; "" in ledgers from before it was kept.
        since: when it became champion. validation: percent, on the rows of its own draw.
        computed: see `TrialSpec`; "" where it is not known.
        note: what is to be said about it, "" for nothing.
    """

    name: str
    task: str
    backbone: str
    backbone_id: str
    dtype: str | None
    fingerprint: str
    adapter_sha256: str | None
    adapter_key: str | None
    version: str | None
    source: str | None
    since: datetime
    validation: float | None = None
    note: str = ""
    files_sha256: str = ""
    computed: str | None = ""


def champion(ledger: Ledger | None, tracker: Tracker | None, task: str, backbone_id: str) -> Champion | None:
    """The champion of a task on these weights; None where there is none.

    Raises:
        InputError: a store that does not answer.
    """
    decisions = [] if ledger is None else of_weights(ledger.decisions(task=task), backbone_id)
    moved = [row for row in decisions if row.decision in MOVES]
    name = moved[-1].model if moved else None
    if name is None and tracker is not None:
        name = versions.find_model(tracker, task, backbone_id)
    if name is None:
        return None
    version = None if tracker is None else versions.by_alias(tracker, name, CHAMPION)
    if version is not None:
        fingerprint = str(version.tags.get("fingerprint", ""))
    else:
        fingerprint = str(moved[-1].challenger_fingerprint) if moved else ""
    if not fingerprint:
        return None
    row = None if ledger is None else ledger.get(fingerprint)
    tags = version.tags if version else {}
    since = next((one.at for one in reversed(moved) if one.challenger_fingerprint == fingerprint), None)
    if since is None:
        since = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC) if version else moved[-1].at
    left: Mapping[str, Any] = (row.outcome if row is not None else None) or {}  # none where it is being made again
    score = left.get("validation", {}).get("score", tags.get("validation"))
    return Champion(
        name=name,
        task=task,
        backbone=row.backbone if row is not None else tags.get("backbone", ""),
        backbone_id=backbone_id,
        dtype=(row.spec.get("dtype") if row is not None else tags.get("dtype")) or None,
        fingerprint=fingerprint,
        adapter_sha256=(row.adapter_sha256 if row is not None else None) or tags.get("adapter_sha256"),
        adapter_key=row.adapter_key if row is not None and row.status == "finished" else None,
        version=str(version.version) if version else None,
        source=str(version.source) if version else None,
        since=since,
        validation=None if score is None else float(score),
        note="" if version or tracker is None else f"{name}: MLflow has lost its champion; `dept run` writes it again",
        files_sha256=left.get("files_sha256", "") if left else tags.get("files_sha256", ""),
        computed=row.spec.get("computed") if row is not None else "",
    )


def all_champions(ledger: Ledger, tracker: Tracker | None, backbone_id: str | None = None) -> list[Champion]:
    """Every champion of the ledger, by task; `backbone_id`: only those on these weights.

    Those of 0.1.0 that none on known weights has followed are the last; their `backbone_id` is "".
    """
    moved = [row for row in ledger.decisions() if row.decision in MOVES]
    pairs = {(row.task, row.backbone_id) for row in moved if row.backbone_id}
    wanted = sorted((task, weights) for task, weights in pairs if backbone_id in (None, weights))
    found = [one for pair in wanted if (one := champion(ledger, tracker, pair[0], str(pair[1]))) is not None]
    if backbone_id is not None:
        return found
    followed = {(one.task, PurePath(one.backbone).name) for one in found}
    last = {row.model: row for row in moved if not row.backbone_id and row.challenger_fingerprint}
    older = [_of_first_version(ledger, tracker, row) for _, row in sorted(last.items())]
    return found + [one for one in older if (one.task, PurePath(one.backbone).name) not in followed]


def _of_first_version(ledger: Ledger, tracker: Tracker | None, decision: DecisionRow) -> Champion:
    row = ledger.get(str(decision.challenger_fingerprint))
    version = None if tracker is None else versions.by_alias(tracker, decision.model, CHAMPION)
    return Champion(
        name=decision.model,
        task=decision.task,
        backbone=row.backbone if row is not None else "",
        backbone_id="",
        dtype=None,
        fingerprint=str(decision.challenger_fingerprint),
        adapter_sha256=row.adapter_sha256 if row is not None else None,
        adapter_key=row.adapter_key if row is not None else None,
        version=str(version.version) if version else decision.challenger_version,
        source=str(version.source) if version else None,
        since=decision.at,
        validation=decision.challenger_score,
        note=OF_FIRST_VERSION.format(decision.model),
    )


def backbones_of(ledger: Ledger | None, tracker: Tracker | None, task: str) -> dict[str, str]:
    """Backbones on which a task has a champion: sha256 of the weights -> name or path when it was trained."""
    found: dict[str, str] = {}
    if ledger is not None:
        for row in ledger.decisions(task=task):
            if row.decision in MOVES and row.backbone_id and row.challenger_fingerprint:
                trial = ledger.get(row.challenger_fingerprint)
                found[row.backbone_id] = trial.backbone if trial is not None else found.get(row.backbone_id, "")
    if tracker is not None:
        for backbone_id, name in versions.models_of(tracker, task).items():
            if not found.get(backbone_id) and (version := versions.by_alias(tracker, name, CHAMPION)) is not None:
                found[backbone_id] = version.tags.get("backbone", "")
    return {weights: backbone for weights, backbone in found.items() if backbone}


def of_weights(decisions: Sequence[DecisionRow], backbone_id: str) -> list[DecisionRow]:
    """Decisions about champions on these weights."""
    return [row for row in decisions if row.backbone_id == backbone_id]


def history(decisions: Sequence[DecisionRow]) -> list[DecisionRow]:
    """The decisions by which the champions of a model came, in order; one that was rolled back is not there."""
    changes: list[DecisionRow] = []
    for row in decisions:
        if row.decision == "rolled-back":
            while changes and changes[-1].challenger_fingerprint != row.challenger_fingerprint:
                changes.pop()
            if changes:
                continue
        if row.decision in MOVES:
            changes.append(row)
    return changes


def adapter_folder(
    found: Champion, store: Store, tracker: Tracker | None, told: Callable[[str], object] | None = None
) -> Path:
    """Local folder of a champion's adapter: from the store, else from MLflow; its files are those that were recorded.

    Whoever loads it checks the sha256 of its tensors.

    Args:
        told: is given a line where the store has lost it and MLflow's copy is taken.

    Raises:
        InputError: neither has it, in one line with what to do.
    """
    again = "`dept run` of its plan trains and registers it again"
    if found.adapter_key is not None:
        try:
            return store.fetch(found.adapter_key, found.files_sha256)
        except LostFileError as error:
            lost = str(error)
    else:
        lost = "the ledger does not know it"
    if tracker is not None and found.source is not None:
        # The fingerprint may be a tag of MLflow, which anyone may have set.
        cache = home() / "champions" / safe_name(found.fingerprint, "fingerprint") if tracker.is_server else None
        try:
            copy = tracker.download(f"{found.source}/{ADAPTER_PATH}", cache)
            if found.files_sha256 and digest_of(copy) != found.files_sha256:
                raise InputError(f"{found.name}: {lost}, and MLflow's copy was altered. Remedy: {again}")
            if told is not None:
                told(f"{found.name}: {lost}. MLflow's copy answers; {again}")
            return copy
        except InputError:
            raise
        except Exception as error:  # MlflowException or OSError, by the kind of place
            lost = f"{lost}; MLflow: {(str(error).splitlines() or [''])[0][:200]}"
    raise InputError(
        f"{found.name}: the adapter of its champion {found.fingerprint[:12]} is gone ({lost}). Remedy: {again}"
    )
