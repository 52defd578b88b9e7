"""MLflow runs: one parent run per flow run, one child run per trial, with numbers, curves and adapter files."""

from registry.tracking.datasets import Rows
from registry.tracking.tracker import Tracker
from registry.tracking.trial_run import Begun, TrialLog

__all__ = ["Begun", "Rows", "Tracker", "TrialLog"]
