"""Addresses of MLflow's pages, each in the view of training runs: MLflow opens with traces, of which we have none."""

from __future__ import annotations

import contextlib
import sqlite3

from infra.settings import home

VIEW = "targets"  # a saved view of the experiment (registry/tracking/views.py): scores of trials side by side
_TRAINING = "workflowType=machine_learning"


def run_page(experiment_id: str, run_id: str) -> str:
    """Of a run, after the address of the server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def runs_page(experiment_id: str) -> str:
    """Of all runs, after the address of the server."""
    return f"#/experiments/{experiment_id}/runs?{_TRAINING}&viewStateShareKey={VIEW}"


def model_page(name: str) -> str:
    """Of a registered model, after the address of the server."""
    return f"#/models/{name}?{_TRAINING}"


def page_of_home(url: str) -> str:
    """Of the runs in the MLflow database of this home, which a server at `url` shows."""
    file = f"{(home() / 'mlflow.db').as_uri()}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file, uri=True)) as connection:
        query = "select experiment_id from experiments where name = 'dept-transfer' and lifecycle_stage = 'active'"
        for (number,) in connection.execute(query):
            return f"{url}/{runs_page(number)}"
    return f"{url}/#/experiments?{_TRAINING}"
