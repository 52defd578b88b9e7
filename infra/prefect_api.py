"""The few calls to the Prefect server's REST API that set it up (Prefect itself is imported in flows only)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

POOL = "gpu"
HEARTBEAT = 30  # seconds between heartbeats of a flow run; Prefect takes no less
SILENCE = 90  # seconds without a heartbeat after which a flow run counts as dead
AUTOMATION = "dept: crash flow runs that went silent"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # 127.0.0.1 is never behind a proxy


def get(url: str, timeout: float = 2.0) -> bytes | None:
    """Body of the answer with status 200, else None."""
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            return bytes(answer.read()) if answer.status == 200 else None
    except (OSError, ValueError):
        return None


def call(api: str, method: str, path: str, body: Any = None, timeout: float = 30.0) -> Any:
    """JSON in, JSON out; None for an empty answer.

    Raises:
        OSError: no answer, or a status of 400 and above (urllib.error.HTTPError).
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"}, method=method)
    with _DIRECT.open(request, timeout=timeout) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def ensure_pool(api: str) -> None:
    """The process work pool `gpu`: one flow run at a time, since a run takes the whole device."""
    try:
        call(api, "POST", "/work_pools/", {"name": POOL, "type": "process", "concurrency_limit": 1})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there from last time
            raise
        call(api, "PATCH", f"/work_pools/{POOL}", {"concurrency_limit": 1})


def ensure_crash_automation(api: str) -> None:
    """Where worker and flow run are both killed nobody reports it, and the run keeps its place in the pool for ever.

    So: a run whose heartbeat is followed by neither another one nor an end within 90 s becomes Crashed.
    """
    event = "prefect.flow-run."
    body = {
        "name": AUTOMATION,
        "description": f"No heartbeat for {SILENCE} s: the flow run's process is gone. Frees its place in the pool.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": [f"{event}*"]},
            "after": [f"{event}heartbeat"],
            "expect": [event + name for name in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": SILENCE,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"no heartbeat for {SILENCE} s: the process of this flow run is gone",
            }
        ],
    }
    known = call(api, "POST", "/automations/filter", {"automations": {"name": {"any_": [AUTOMATION]}}})
    if not known:
        call(api, "POST", "/automations/", body)
    elif known[0]["description"] != body["description"]:
        # Not otherwise: a replaced automation forgets the runs it watches, such as the one whose worker just died.
        call(api, "PUT", f"/automations/{known[0]['id']}", body)


def crash_runs(api: str, message: str) -> list[str]:
    """Say of every unfinished flow run of the pool that it crashed; returns their names.

    For a worker that was stopped: Prefect would show its flow runs as running, and count them, until the next start.

    Raises:
        OSError: the server does not answer.
    """
    wanted = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    runs = call(api, "POST", "/flow_runs/filter", {"flow_runs": wanted, "work_pools": {"name": {"any_": [POOL]}}})
    state = {"type": "CRASHED", "name": "Crashed", "message": message}
    for run in runs:
        call(api, "POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return [run["name"] for run in runs]


def worker_answers(api: str, name: str, since: float) -> bool:
    """True if the worker `name` of the pool is online and spoke after `since` (seconds since the epoch)."""
    try:
        workers = call(api, "POST", f"/work_pools/{POOL}/workers/filter", {}, timeout=5.0)
    except OSError:
        return False
    for worker in workers:
        if worker["name"] == name and worker["status"] == "ONLINE":
            seen = datetime.fromisoformat(worker["last_heartbeat_time"].replace("Z", "+00:00"))
            if seen.replace(tzinfo=seen.tzinfo or UTC).timestamp() >= since - 1:
                return True
    return False
