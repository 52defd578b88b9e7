"""Champions of version 0.1.0, whose registered models name no weights: found, and taken over before they are met."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from dept.backbones.describe import describe
from dept.trial import SCHEMA, TrialOutcome, TrialSpec
from infra.errors import InputError
from registry.ledger.locks import Held
from registry.promotion import versions
from registry.promotion.lookup import OF_FIRST_VERSION, Champion, adapter_folder, champion
from registry.promotion.names import CHAMPION, model_name, old_model_name
from registry.promotion.rows import Stores
from registry.tracking import Tracker

TAKEN = "taken_over_by"  # tag of a registered model of 0.1.0: the model in which its champion goes on


def older_champion(tracker: Tracker, task: str, backbone: str, backbone_id: str) -> Champion | None:
    """The champion that 0.1.0 registered under a name without weights; whoever loads it checks that it fits."""
    version = versions.by_alias(tracker, old_model_name(backbone, task), CHAMPION)
    return None if version is None else _champion(version, task, backbone, backbone_id)


def older_champions(tracker: Tracker, task: str | None = None) -> list[Champion]:
    """Champions of 0.1.0 that no later version has taken over; their weights are not known: `backbone_id` is ""."""
    query = None if task is None else versions.of_task(task)
    found = []
    for model in tracker.ask("search_registered_models", query):
        if "task" in model.tags and not {"backbone_id", TAKEN} & set(model.tags):
            version = versions.by_alias(tracker, model.name, CHAMPION)
            if version is not None:
                found.append(_champion(version, model.tags["task"], "", ""))
    return sorted(found, key=lambda one: (one.task, one.name))


def older_backbones(tracker: Tracker, task: str) -> dict[str, str]:
    """Backbones of a task's champions of 0.1.0 that are in reach: sha256 of the weights -> name or path."""
    found = {}
    for one in older_champions(tracker, task):
        try:
            found[describe(one.backbone).backbone_id] = one.backbone
        except InputError:  # moved, or not on this machine: --backbone names it
            continue
    return found


def adopt(stores: Stores, task: str, backbone: str, backbone_id: str, held: Held) -> str:
    """Let the champion of 0.1.0 be the first of its task on these weights, where there is none yet.

    It is entered into today's ledger and store, and a decision says so; `restore` lets MLflow say it too. From then on
    it is met, compared and rolled back to like any other.

    Args:
        backbone: name or path of the weights.

    Returns:
        Why there is one that cannot be met, "" where there is none or it can.

    Raises:
        LockLostError: another decides about the champion meanwhile.
        InputError: a store that does not answer or cannot be written.
    """
    if champion(stores.ledger, stores.tracker, task, backbone_id) is not None:
        return ""
    older = older_champion(stores.tracker, task, backbone, backbone_id)
    if older is None:
        return ""
    which = f"the champion of 0.1.0 ({older.name}, version {older.version})"
    try:
        outcome = _entered(stores, older, backbone)
    except _LostError as error:
        return f"{which} could not be compared: {error}"
    if outcome is None:
        return ""
    name = model_name(backbone, backbone_id, task)
    version = versions.register(stores, name, outcome)
    stores.ledger.record_decision(
        name,
        task,
        "first",
        f"{which} goes on under this name",
        challenger_version=str(version.version),
        challenger_fingerprint=outcome.spec.fingerprint,
        backbone_id=backbone_id,
        dtype=outcome.spec.dtype,
        run_id=stores.run_id or None,
        held=held,
    )
    stores.tracker.ask("set_registered_model_tag", older.name, TAKEN, name)
    return ""


class _LostError(Exception):
    """A champion of 0.1.0 of which something is missing or damaged."""


def _entered(stores: Stores, older: Champion, backbone: str) -> TrialOutcome | None:
    """Its outcome, entered into the ledger and the store of today; None where it is of other weights."""
    row = stores.ledger.get(older.fingerprint)
    if row is None or row.outcome is None:
        raise _LostError("its trial is not in this ledger")
    try:
        past = stores.ledger.outcome(older.fingerprint)
        folder = adapter_folder(older, stores.store, stores.tracker)
        about = _metadata(folder, past.adapter_sha256)
        known = {older.backbone_id, *describe(backbone).legacy_ids()}
    except InputError as error:
        raise _LostError(str(error)) from error
    if about.get("backbone_id") not in known:
        return None
    # The role keeps its fingerprint apart from all that a plan asks for: it was trained by other arithmetic.
    changed = {"schema_version": SCHEMA, "backbone_id": older.backbone_id, "role": "champion"}
    spec = TrialSpec.model_validate({**past.spec.model_dump(), **changed, "dtype": about.get("dtype") or "float32"})
    outcome = replace(past, spec=spec, adapter_key=f"adapters/{spec.fingerprint}/1")
    outcome.files_sha256 = stores.store.put_folder(folder, outcome.adapter_key)
    stores.ledger.enter(outcome)
    return outcome


def _champion(version: ModelVersion, task: str, backbone: str, backbone_id: str) -> Champion:
    tags = version.tags
    score = tags.get("validation")
    return Champion(
        name=str(version.name),
        task=task,
        backbone=tags.get("backbone", backbone),
        backbone_id=backbone_id,
        dtype=None,
        fingerprint=tags.get("fingerprint", ""),
        adapter_sha256=tags.get("adapter_sha256"),
        adapter_key=f"adapters/{tags['fingerprint']}" if "fingerprint" in tags else None,
        version=str(version.version),
        source=str(version.source),
        since=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        validation=None if score is None else float(score),
        note=OF_FIRST_VERSION.format(version.name),
    )


def _metadata(folder: Path, sha256: str) -> dict[str, Any]:
    """What an adapter's file says, read without torch; its tensors must be those of the ledger."""
    files = [file for file in folder.iterdir() if file.is_file()]
    if not any(hashlib.sha256(file.read_bytes()).hexdigest() == sha256 for file in files):
        raise InputError("its adapter is damaged or another")
    try:
        found: dict[str, Any] = json.loads((folder / "adapter.json").read_text("utf-8"))["metadata"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError("its adapter's description is missing or damaged") from error
    return found
