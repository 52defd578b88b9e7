"""Specs as older versions wrote them, read as today's. No torch here."""

from __future__ import annotations

from typing import Any


def migrated(body: dict[str, Any], schema: int) -> dict[str, Any]:
    """The JSON of a `dept.trial.TrialSpec` of an older schema, as ledgers of 0.1.0 (schema 0) hold it.

    Args:
        schema: that of today.
    """
    version = body.get("schema_version", 0)
    if version < schema and isinstance(body.get("training"), dict):
        body = {**body, "training": _older_training(body["training"])}
    if version or "start" in body:
        return body
    start = "text"
    if body.get("source_sha256"):
        start = "prompt" if body.get("init") == "prompt-only" else "source"
    elif body.get("method") == "in-context" and body.get("init") != "untrained":
        start = "shots"
    return {**body, "start": start}


def _older_training(body: dict[str, Any]) -> dict[str, Any]:
    """A recipe of before schema 5: patience counted validations, and what had no name yet was fixed."""
    if "average" in body:
        return body  # of an older spec that was read and written again
    patience = (body.get("patience", 5) + 1) * body.get("eval_every", 20)
    return {"objective": "vocabulary", "schedule": "linear", "average": 0.0} | body | {"patience": patience}
