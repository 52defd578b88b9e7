"""Which runs MLflow has lost: deleted by a person, by `mlflow gc`, or kept by another server."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow.exceptions import MlflowException

from registry.ledger.claims import chunks
from registry.tracking.tracker import Tracker


def lost_runs(tracker: Tracker, run_ids: Iterable[str]) -> set[str]:
    """Those of `run_ids` that are no active runs of the tracker's experiment.

    Raises:
        InputError: the store does not answer.
    """
    lost: set[str] = set()
    for part in chunks(run_ids):
        named = ", ".join(f"'{run_id}'" for run_id in part)
        query = f"attributes.run_id IN ({named})"
        found = tracker.ask("search_runs", [tracker.experiment_id], filter_string=query, max_results=len(part))
        lost |= set(part) - {run.info.run_id for run in found}
    return lost


def knows(tracker: Tracker, run_id: str) -> bool:
    """Whether the tracker's store holds a run, deleted or not.

    Raises:
        InputError: the store does not answer.
    """
    try:
        tracker.ask("get_run", run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True
