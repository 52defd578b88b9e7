"""The numbers behind a report: report.json, written whole and read back, also as 0.1.0 wrote it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.files import write_text

NUMBERS = "report.json"
_CURVES = ("loss_curve", "validation_curve", "validation_loss_curve")


def write_numbers(
    folder: Path, title: str, plan: Mapping[str, Any], context: Mapping[str, Any], outcomes: Sequence[TrialOutcome]
) -> Path:
    """Write report.json: title, plan, context and every outcome in full; returns its path."""
    body = {"title": title, "plan": plan, "context": context, "outcomes": [_plain(outcome) for outcome in outcomes]}
    write_text(folder / NUMBERS, json.dumps(body, default=str))
    return folder / NUMBERS


def load_report(folder: Path) -> dict[str, Any]:
    """The content of report.json, with `outcomes` as a list of TrialOutcome.

    Raises:
        InputError: no report there, or one that cannot be read.
    """
    try:
        body: dict[str, Any] = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        body["outcomes"] = [_outcome(item) for item in body["outcomes"]]
    except FileNotFoundError:
        raise InputError(f"report {folder.name}: not there; `dept run PLAN` writes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"report {folder.name}: {folder / NUMBERS} cannot be read; `dept run PLAN` writes it anew"
        ) from error
    return body


def load_outcomes(folder: Path) -> list[TrialOutcome]:
    """The outcomes of a report.

    Raises:
        InputError: see `load_report`.
    """
    outcomes: list[TrialOutcome] = load_report(folder)["outcomes"]
    return outcomes


def _plain(outcome: TrialOutcome) -> dict[str, Any]:
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    return fields | {"spec": outcome.spec.model_dump(mode="json")}


def _outcome(item: dict[str, Any]) -> TrialOutcome:
    """An outcome from JSON; 0.1.0 wrote the folder of the adapter, whose last part was its place below adapters/."""
    known = {field.name for field in dataclasses.fields(TrialOutcome)}
    if "adapter_key" not in item:
        item = {**item, "adapter_key": f"adapters/{Path(item['adapter_folder']).name}"}
    curves = {name: [tuple(point) for point in item.get(name, ())] for name in _CURVES}
    spec = TrialSpec.model_validate(item["spec"])
    return TrialOutcome(**{**{key: value for key, value in item.items() if key in known}, **curves, "spec": spec})
