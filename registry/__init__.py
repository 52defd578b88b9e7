"""What is remembered: the ledger of trials, MLflow runs, champions, serving. Only here: MLflow and SQLAlchemy."""

import os

# MLflow reads these when it is imported, so they are set before any module of this room can import it.
# MLflow repeating a request whose answer was lost would make a second run; registry.tracking repeats with care.
# A user's setting wins.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # two files need no bar
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a request more for each run, to print a line
}.items():
    os.environ.setdefault(_name, _value)
