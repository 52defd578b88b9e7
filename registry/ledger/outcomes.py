"""TrialOutcome <-> plain JSON. NaN and infinity, which JSON does not have, are kept as strings."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.settings import home

_ELSEWHERE = {"spec", "adapter_folder", "adapter_sha256"}  # these have columns of their own
_NUMBERS = ("seconds", "tokens_per_second", "peak_memory_mib")


def to_json(outcome: TrialOutcome) -> dict[str, Any]:
    """The numbers of an outcome, safe for any JSON column."""
    return {
        field.name: _finite(getattr(outcome, field.name))
        for field in dataclasses.fields(outcome)
        if field.name not in _ELSEWHERE
    }


def from_json(body: dict[str, Any], spec: TrialSpec, folder: str, sha256: str) -> TrialOutcome:
    """The outcome that `to_json` took apart.

    Raises:
        InputError: numbers missing or of another version.
    """
    try:
        fields = dict(body)
        for name in ("validation", "test"):
            fields[name] = {key: float(value) for key, value in body[name].items()}
        for name in ("loss_curve", "validation_curve"):
            fields[name] = [(int(step), float(value)) for step, value in body[name]]
        fields |= {name: float(body[name]) for name in _NUMBERS}
        return TrialOutcome(spec=spec, adapter_folder=load_path(folder), adapter_sha256=sha256, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"ledger: the numbers of {spec.label} cannot be read ({error!r}). Remedy: upgrade "
            "dept-transfer, or start a new ledger"
        ) from error


def save_path(folder: Path) -> str:
    """Path as the ledger keeps it: relative below home(), so that the home can be moved as a whole."""
    folder = folder.absolute()
    return str(folder.relative_to(home())) if folder.is_relative_to(home()) else str(folder)


def load_path(stored: str) -> Path:
    """The absolute path of what `save_path` kept."""
    return home() / stored


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
