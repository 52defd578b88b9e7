"""The way through: plan, Prefect flows, report and command line. The only room that imports Prefect."""

import os

# Read by Prefect, MLflow and tokenizers when they are imported, so they must be set before any of them is.
# A user's own setting wins.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_LOGGING_LEVEL": "WARNING",  # the progress bars and the table speak; a worker sets INFO for its own page
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
