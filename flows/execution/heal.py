"""Is a trial's adapter still whole? Where it is not, the trial is pending again and the damaged file kept aside.

No torch here: a controller looks too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from pathlib import Path

from dept.trial import TrialOutcome
from flows.execution.context import RunContext
from flows.execution.progress import say
from registry.store import LostFileError
from registry.tracking.lost import lost_runs


class LostError(Exception):
    """The adapter of a trial is missing, damaged or altered."""


def place_of(context: RunContext, outcome: TrialOutcome) -> Path:
    """Local folder of a trial's adapter, after its files were checked against the ledger's sums.

    Raises:
        LostError: missing, damaged or altered.
        InputError: the store does not answer.
    """
    try:
        folder = context.store.fetch(outcome.adapter_key, outcome.files_sha256)
    except LostFileError as error:
        raise LostError(str(error)) from error
    files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    if not any(hashlib.sha256(file.read_bytes()).hexdigest() == outcome.adapter_sha256 for file in files):
        aside = context.store.quarantine(outcome.adapter_key)
        raise LostError(f"{outcome.adapter_key}: its sha256 is not the one in the ledger; it was put aside as {aside}")
    return folder


def heal(context: RunContext, outcome: TrialOutcome, reason: str) -> None:
    """Send a trial back to pending, and say why; not where another worker has made its adapter anew meanwhile."""
    if context.ledger.heal(outcome.spec.fingerprint, reason, adapter_key=outcome.adapter_key):
        say(f"{outcome.spec.label}: {reason}. It is made again.")


def look(context: RunContext, outcomes: Iterable[TrialOutcome]) -> list[str]:
    """Check the adapters of trials that are done; returns the fingerprints of those that are to be made again.

    Raises:
        InputError: the store does not answer.
    """
    lost = []
    for outcome in outcomes:
        if not outcome.adapter_key:
            continue  # probes and evaluations keep none
        try:
            place_of(context, outcome)
        except LostError as error:
            heal(context, outcome, str(error))
            lost.append(outcome.spec.fingerprint)
    return lost


def say_lost_runs(context: RunContext, logged: Container[str]) -> None:
    """Say how many trials of the run have no MLflow run any more: nothing but their page is lost, so none is made anew.

    Args:
        logged: fingerprints of those that this run has logged.

    Raises:
        InputError: MLflow does not answer.
    """
    rows = context.ledger.find(run_id=context.run_id, status="finished", outcomes=False)
    runs = {row.fingerprint: row.mlflow_run_id for row in rows if row.mlflow_run_id}  # searches and ensembles have some
    older = [run for fingerprint, run in runs.items() if fingerprint not in logged]
    lost = lost_runs(context.tracker, older)
    if lost:
        say(
            f"{len(lost)} of {len(runs)} trials have no run in MLflow any more: it was deleted, or is kept by another "
            "server. Their adapters and numbers are in the store, the ledger and the report."
        )
