"""Where the state of the product lives."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Absolute folder of ledger, MLflow store, adapters and reports: $DEPT_HOME, else ./.dept. Creates nothing."""
    return Path(os.environ.get("DEPT_HOME") or ".dept").expanduser().absolute()
