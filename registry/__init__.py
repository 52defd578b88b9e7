"""What is remembered: the ledger of trials, MLflow runs, champions, serving. Only here: MLflow and SQLAlchemy."""

import os

# MLflow reads these when it is imported, so they are set before any module of this room can import it.
# The retry bound turns a dead tracking server into a message within seconds instead of minutes. A user's setting wins.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # two files need no bar
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}.items():
    os.environ.setdefault(_name, _value)
