"""Processor, memory, disk, network and GPU of a worker's machine while it trains, on the page of the flow run."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own
SECONDS, SAMPLES = 10, 2  # between two looks; looks whose mean is written at once
_log = logging.getLogger(__name__)


class SystemMetrics:
    """MLflow's own monitor, one for each flow run that this process works for.

    $MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false leaves it out.

    Attributes:
        own: flow runs that this process has begun: metrics of others carry the names of host and process.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.own = uri, set[str]()
        self._running: dict[str, Any] = {}

    def begin(self, run_id: str) -> None:
        """Watch from now on, for as long as the run is under way; once."""
        switched_off = os.environ.get(SWITCH, "").lower() in ("false", "0")
        if not run_id or run_id in self._running or switched_off:
            return
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        node = None if run_id in self.own else f"{socket.gethostname()}-{os.getpid()}"
        try:
            about = {"resume_logging": True, "node_id": node, "tracking_uri": self.uri}
            monitor = SystemMetricsMonitor(run_id, SECONDS, SAMPLES, **about)
            monitor.start()
        except Exception as error:  # what a machine cannot tell about itself is no reason to stop
            _log.warning("no system metrics: %s", error)
            monitor = None
        self._running[run_id] = monitor

    def end(self, run_id: str) -> None:
        """Watch no more."""
        monitor = self._running.pop(run_id, None)
        if monitor is not None:
            monitor.finish()
