"""The champion of a task, found in the ledger and in MLflow, ready to answer."""

from __future__ import annotations

from dataclasses import replace

from dept.backbones.describe import describe
from dept.backbones.shared import shared_backbone
from infra.errors import InputError
from infra.settings import home, settings
from registry.ledger import Ledger
from registry.promotion.lookup import adapter_folder, backbones_of, champion
from registry.promotion.older import older_backbones, older_champion
from registry.serving.predictor import Predictor, load_adapter, needs_backbone
from registry.store import Store
from registry.tracking import Tracker


def load_champion(task: str, backbone: str | None = None, tracker: Tracker | None = None) -> Predictor:
    """The champion of a task, ready to answer. Only reads: where there is no ledger and no MLflow, none is made.

    Args:
        task: task name.
        backbone: name or path; it is what is loaded, and its weights say whose champion answers, wherever they lay
            when the champion was trained. None: the one backbone that has a champion of this task.
        tracker: where to look; default the default store, if there is one.

    Raises:
        InputError: no champion, several backbones to choose from, or an adapter that is lost or damaged.
    """
    ledger, tracker, store = _ledger(), tracker or _tracker(), Store.open()
    known = backbones_of(ledger, tracker, task)
    if not known and tracker is not None:
        known = older_backbones(tracker, task)
    if backbone is None:
        if len(known) > 1:
            listed = ", ".join(f"{name} ({backbone_id[:8]})" for backbone_id, name in known.items())
            raise InputError(f"task {task} has champions on several backbones: {listed}. Remedy: --backbone")
        if not known:
            raise InputError(f"no champion of task {task} yet. Remedy: run a plan that has it")
        backbone_id, backbone = next(iter(known.items()))
    else:
        backbone_id = describe(backbone).backbone_id
    found = champion(ledger, tracker, task, backbone_id)
    if found is None and tracker is not None:
        found = older_champion(tracker, task, backbone, backbone_id)
    if found is None:
        others = f"; it has one on {', '.join(known.values())}" if known else ""
        raise InputError(
            f"no champion of task {task} on backbone {backbone} ({backbone_id[:8]}) yet{others}. Remedy: run a plan "
            "with this task and backbone, or name another backbone"
        )
    notes = [found.note] if found.note else []
    adapter = load_adapter(adapter_folder(found, store, tracker, notes.append), found.adapter_sha256)
    if needs_backbone(adapter) and found.computed not in ("", now := describe(backbone).computed):
        notes.append(
            f"{found.name}: it was trained while its backbone was computed otherwise (today with right {now}), so its "
            "answers are others than it was chosen for. Remedy: `dept retrain`, or `dept run` of its plan"
        )
    found = replace(found, note="; ".join(notes))
    dtype = found.dtype or adapter.metadata.get("dtype")
    return Predictor(adapter, shared_backbone(backbone, dtype) if needs_backbone(adapter) else None, found)


def champion_backbones(task: str) -> dict[str, str]:
    """Id -> name of the backbones that have a champion of a task, by the ledger alone."""
    return backbones_of(_ledger(), None, task)


def _ledger() -> Ledger | None:
    here = settings().ledger_url is not None or (home() / "ledger.db").is_file()
    return Ledger.open() if here else None


def _tracker() -> Tracker | None:
    here = settings().mlflow_tracking_uri is not None or (home() / "mlflow.db").is_file()
    return Tracker() if here else None
