"""The automations around a crash: silent flow runs are Crashed; what a crash leaves behind is tidied up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.prefect_api import client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

HEARTBEAT = 30  # seconds between heartbeats of a flow run; Prefect takes no less
SILENCE = 120  # seconds without a heartbeat after which a flow run counts as dead: more than three of them
AUTOMATION = "dept: crash flow runs that went silent"
AFTER, TIDIES = "dept: after a crash, end its task runs and restart", "dept-after-crash/tidy"
TAG = "dept"  # every deployment of infra/prefect.yaml carries it, and Prefect gives it to their flow runs
FLOWS = "dept-*"
CARED_FOR = ("dept-transfer", "dept-retrain", "dept-work")  # not what looks after them
_RUN = "prefect.flow-run."
# Whatever ends a run, or lets its process end with the run to be taken up again later.
_ENDS = ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed", "Suspended", "AwaitingRetry", "Resuming")


def definition(silence: float = SILENCE) -> dict[str, Any]:
    """The automation as Prefect's API takes it.

    Flow runs of other people on the same server are left alone: it looks only at runs of a deployment, with our tag,
    of a flow that is named as ours are. Prefect refuses to make Crashed what is Completed (the action does not force
    it), so a process that still beats between its end and its exit does no harm.
    """
    return {
        "name": AUTOMATION,
        "description": f"No heartbeat for {silence:g} s: the flow run's process is gone. Frees its place in the pool. "
        f"Looks at flow runs of deployments alone, tagged {TAG}, of flows {FLOWS}.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": [f"{_RUN}*"]},
            "match_related": [
                {"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{TAG}"]},
                {"prefect.resource.role": ["flow"], "prefect.resource.name": [FLOWS]},
                {"prefect.resource.role": ["deployment"], "prefect.resource.id": ["prefect.deployment.*"]},
            ],
            "after": [f"{_RUN}heartbeat"],
            "expect": [f"{_RUN}{name}" for name in ("heartbeat", *_ENDS)],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": silence,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"no heartbeat for {silence:g} s: the process of this flow run is gone",
            }
        ],
    }


def after_crash(deployment: str) -> dict[str, Any]:
    """The automation that lets the deployment of `flows/after_crash.py` look after a flow run of ours that crashed.

    Args:
        deployment: its id.
    """
    return {
        "name": AFTER,
        "description": f"Runs {TIDIES} {deployment}: no task run stays Running behind a crashed flow run; one with the "
        "parameter `restart` is started again.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match": {"prefect.resource.id": [f"{_RUN}*"]},
            "match_related": [
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(CARED_FOR)},
                {"prefect.resource.role": ["deployment"], "prefect.resource.id": ["prefect.deployment.*"]},
            ],
            "expect": [f"{_RUN}Crashed"],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "run-deployment",
                "source": "selected",
                "deployment_id": deployment,
                # Said to be text: a value alone would be made JSON, which an UUID cannot be.
                "parameters": {"flow_run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}},
            }
        ],
    }


def ensure_crash_automation(api: str | None = None, silence: float = SILENCE) -> None:
    """Make the automation of silent flow runs, or bring an older one up to date; one that is switched off stays off.

    Where worker and flow run are both killed nobody reports it, and the run keeps its place in the pool for ever.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    with client(api) as asked:
        _ensure(asked, definition(silence))


def ensure_after_crash(api: str | None = None) -> None:
    """Make the automation after a crash, as `ensure_crash_automation`; nothing where its deployment is missing.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    from prefect.exceptions import ObjectNotFound

    with client(api) as asked:
        try:
            deployment = asked.read_deployment_by_name(TIDIES)
        except ObjectNotFound:
            return
        _ensure(asked, after_crash(str(deployment.id)))


def _ensure(asked: SyncPrefectClient, body: dict[str, Any]) -> None:
    from prefect.events.schemas.automations import AutomationCore

    known = asked.read_automations_by_name(body["name"])
    if not known:
        asked.create_automation(AutomationCore.model_validate(body))
    elif known[0].description != body["description"]:
        # Not otherwise: a replaced automation forgets the runs it watches, such as one whose worker just died.
        changed = AutomationCore.model_validate(body | {"enabled": known[0].enabled})
        asked.update_automation(known[0].id, changed)
