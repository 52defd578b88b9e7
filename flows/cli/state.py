"""What is running: services, workers and their pools, waiting flow runs, trials under way, last runs."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.cli import stores

if TYPE_CHECKING:
    from registry.ledger import Ledger

SHOWN, RUNS = 20, 5  # trials and runs that are listed


def found() -> dict[str, Any]:
    """The state of everything that is in reach, as plain data. Makes nothing, waits a few seconds at most."""
    from infra import services

    states = services.status()
    ledger = stores.ledger()
    return {
        "services": [
            {"name": s.name, "running": s.running, "answers": s.answers, "pid": s.pid, "url": s.url, "log": str(s.log)}
            for s in states
        ],
        "pools": _pools({s.name: s.url for s in states if s.answers and s.url}),
        "trials": {} if ledger is None else ledger.counts(),
        **({"running": [], "orphaned": []} if ledger is None else _held(ledger)),
        "runs": [] if ledger is None else _runs(ledger),
    }


def lines(now: dict[str, Any]) -> list[str]:
    """The state for people."""
    told = ["Services"]
    for service in now["services"]:
        how = "not running"
        if service["running"]:
            how = f"running, pid {service['pid']}{'' if service['answers'] else ', but does not answer'}"
        told.append(f"  {service['name']:<10} {how}{' at ' + service['url'] if service['url'] else ''}")
    told.append("Pools")
    for pool in now["pools"]:
        limit = "no limit" if pool["limit"] is None else f"{pool['limit']} at a time"
        workers = ", ".join(pool["workers"]) or "no worker"
        paused = ", paused" if pool["paused"] else ""
        told.append(f"  {pool['name']:<8} {limit}{paused}; {workers}")
        told += [f"           {what}: {', '.join(pool[what])}" for what in ("running", "waiting") if pool[what]]
    told += [] if now["pools"] else ["  none in reach (`dept up` makes them)"]
    counts = ", ".join(f"{number:,} {status}" for status, number in now["trials"].items())
    told += ["Trials", f"  {counts or 'none yet'}"]
    for what in ("running", "orphaned"):
        for trial in now[what][:SHOWN]:
            told.append(f"  {what}: {trial['fingerprint'][:12]} {trial['trial']}, {trial['owner']}")
        if len(now[what]) > SHOWN:
            told.append(f"  {what}: {len(now[what]) - SHOWN:,} more")
    if now["orphaned"]:
        told.append("  Orphaned trials are taken over by `dept run` of their plan, or by `dept work --run RUN`.")
    told.append("Last runs")
    for run in now["runs"]:
        counts = ", ".join(f"{number:,} {status}" for status, number in run["trials"].items())
        told.append(f"  {run['run_id'][:12]} {run['name']}, {run['status']}, begun {run['started_at']}: {counts}")
    told += [] if now["runs"] else ["  none yet"]
    return told


def pages() -> dict[str, str]:
    """Pages of our services that answer, by name."""
    from infra import services
    from infra.mlflow_page import page_of_home

    up = {state.name: state.url for state in services.status() if state.answers and state.url}
    shown = {}
    if "mlflow" in up:
        shown["MLflow"] = page_of_home(up["mlflow"])
    if "prefect" in up:
        shown["Prefect"] = f"{up['prefect']}/runs"
    return shown


def _pools(up: dict[str, str]) -> list[dict[str, Any]]:
    """The pools of our own server, or of the one that Prefect is set to."""
    api = f"{up['prefect']}/api" if "prefect" in up else os.environ.get("PREFECT_API_URL")
    if not api:
        return []
    from infra.prefect_state import pools

    try:
        states = pools(api)
    except ConnectionError:
        return []
    keys = ("name", "kind", "limit", "paused", "workers", "running", "waiting")
    return [{key: getattr(state, key) for key in keys} for state in states]


def _held(ledger: Ledger) -> dict[str, Any]:
    """Trials under way: those whose worker lives, and those that wait to be taken over."""
    from infra.identity import is_gone

    held: dict[str, list[dict[str, Any]]] = {"running": [], "orphaned": []}
    for row, good in ledger.held():
        alive = good and not is_gone(row.owner or "")
        held["running" if alive else "orphaned"].append(
            {
                "fingerprint": row.fingerprint,
                "trial": row.task if row.unreadable else row.trial_spec.label,
                "status": row.status,
                "attempt": row.attempt,
                "owner": row.owner,
                "lease_until": _time(row.lease_until),
            }
        )
    return held


def _runs(ledger: Ledger) -> list[dict[str, Any]]:
    return [
        {
            "run_id": run.run_id,
            "name": run.name,
            "kind": run.kind,
            "status": run.status,
            "mlflow_run_id": run.mlflow_run_id,
            "started_at": _time(run.started_at),
            "ended_at": _time(run.ended_at),
            "trials": ledger.counts(run.run_id),
        }
        for run in ledger.runs(limit=RUNS)
    ]


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone().isoformat(timespec="seconds", sep=" ")
