"""Specs and outcomes to columns and back. NaN and infinity, which JSON does not have, are kept as strings."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from dept.trial import STACKED, TrialOutcome, TrialSpec
from infra.errors import InputError
from registry.ledger.schema import TrialRow

_ELSEWHERE = {"spec", "adapter_key", "adapter_sha256"}  # these have columns of their own
_FIELDS = tuple(field.name for field in dataclasses.fields(TrialOutcome) if field.name not in _ELSEWHERE)
_NUMBERS = ("seconds", "tokens_per_second", "peak_memory_mib")


def spec_columns(spec: TrialSpec) -> dict[str, Any]:
    """The columns that a spec fills."""
    return {
        "fingerprint": spec.fingerprint,
        "kind": spec.kind,
        "task": spec.task,
        "role": spec.role,
        "init": spec.init,
        "shots": spec.shots,
        "seed": spec.seed,
        "backbone": spec.backbone,
        "backbone_id": spec.backbone_id,
        "group_key": group_of(spec),
        "schema_version": spec.schema_version,
        "spec": spec.model_dump(mode="json"),
    }


def group_of(spec: TrialSpec) -> str:
    """Trials of one group can be worked on with one backbone in memory, and are shared out alike.

    The backbone (`backbone_of`: weights and number type), then stack: many at once; search, single: one by one.
    """
    pace = "search" if spec.kind == "search" else "stack" if spec.method in STACKED else "single"
    return f"{spec.backbone_id}:{spec.dtype or '-'}:{pace}"


def backbone_of(group: str) -> str:
    """What trials of a group need in memory; several groups may need the same."""
    return group.rpartition(":")[0]


def outcome_columns(outcome: TrialOutcome) -> dict[str, Any]:
    """The columns that an outcome fills, safe for any JSON column."""
    body = {name: getattr(outcome, name) for name in _FIELDS}
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError):
        body = _finite(body)
    return {"outcome": body, "adapter_key": outcome.adapter_key, "adapter_sha256": outcome.adapter_sha256}


def outcome_of(row: TrialRow, spec: TrialSpec | None = None) -> TrialOutcome:
    """The outcome that a row holds.

    Args:
        spec: read already; default the row's own.

    Raises:
        InputError: none yet, or one that cannot be read.
    """
    if row.outcome is None:
        raise InputError(f"ledger: trial {row.fingerprint[:12]} has no result: it is {row.status}")
    spec, body = spec or row.trial_spec, row.outcome
    try:
        fields = {"validation_loss_curve": [], **body}  # 0.1.0 kept none
        for name in ("validation", "test"):
            fields[name] = {key: float(value) for key, value in body[name].items()}
        for name in ("loss_curve", "validation_curve", "validation_loss_curve"):
            fields[name] = [(int(step), float(value)) for step, value in fields[name]]
        fields |= {name: float(body[name]) for name in _NUMBERS}
        return TrialOutcome(
            spec=spec, adapter_key=row.adapter_key or "", adapter_sha256=row.adapter_sha256 or "", **fields
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"ledger: the numbers of {spec.label} cannot be read. Remedy: upgrade dept-transfer, or "
            f"`dept trials forget {row.fingerprint[:12]}`"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
