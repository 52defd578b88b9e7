"""What is running: services, workers and their pool, waiting flow runs, trials, last runs."""

from __future__ import annotations

from typing import Any

from flows.cli import stores


def found() -> dict[str, Any]:
    """The state of everything that is in reach, as plain data. Makes nothing, waits a few seconds at most."""
    from infra import services

    states = services.status()
    ledger = stores.ledger()
    return {
        "services": [
            {"name": s.name, "running": s.running, "answers": s.answers, "pid": s.pid, "url": s.url, "log": s.log}
            for s in states
        ],
        "trials": {} if ledger is None else _counts(ledger),
    }


def lines(now: dict[str, Any]) -> list[str]:
    """The state for people."""
    told = []
    for service in now["services"]:
        how = "not running"
        if service["running"]:
            how = f"running, pid {service['pid']}{'' if service['answers'] else ', but does not answer'}"
        told.append(f"{service['name']:<8} {how}{' at ' + service['url'] if service['url'] else ''}")
    counts = ", ".join(f"{number:,} {status}" for status, number in now["trials"].items())
    told.append(f"trials   {counts or 'none yet'}")
    return told


def pages() -> dict[str, str]:
    """Pages of our services that answer, by name."""
    from infra import services

    up = {state.name: state.url for state in services.status() if state.answers and state.url}
    shown = {}
    if "mlflow" in up:
        # MLflow opens in a mode for traces otherwise, which are empty here.
        shown["MLflow"] = f"{up['mlflow']}/#/experiments/1/runs?workflowType=machine_learning"
    if "prefect" in up:
        shown["Prefect"] = f"{up['prefect']}/runs"
    return shown


def _counts(ledger: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in ledger.find():
        counts[row.status] = counts.get(row.status, 0) + 1
    return counts
