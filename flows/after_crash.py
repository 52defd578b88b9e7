"""The flow `dept-after-crash`: tidies up after a flow run that crashed; an automation runs it."""

from __future__ import annotations

from uuid import UUID

from prefect import flow, get_run_logger, runtime

from infra.crashed import end_task_runs, restart
from infra.hidden import hidden_credentials


def _name() -> str:
    return f"after the crash of {str(runtime.flow_run.parameters.get('flow_run_id', ''))[-12:]}"


@flow(name="dept-after-crash", flow_run_name=_name, retries=2, retry_delay_seconds=10)
def dept_after_crash(flow_run_id: UUID) -> str:
    """End what a crash left behind: its task runs, and its run in ledger and MLflow; or start it again (`restart`).

    Args:
        flow_run_id: of the run that crashed.
    """
    with hidden_credentials():
        ended, outlook = end_task_runs(), restart(flow_run_id.hex)
        told = f"{ended} task runs of crashed flow runs were ended; {outlook.said}."
        if outlook.over and _end_run(flow_run_id.hex):
            told += " Its run was ended in the ledger and in MLflow; the same plan goes on from what is finished."
        get_run_logger().info(told)
        return told


def _end_run(run_id: str) -> bool:
    """End the run of a controller that is gone, which only its own host could see; False where it is none under way.

    Raises:
        InputError: a store that does not answer.
    """
    from registry.ledger import Ledger
    from registry.tracking import Tracker

    ledger = Ledger.open()
    row = ledger.run(run_id)
    if row is None or row.status != "running" or not ledger.end_run(run_id, "killed", owner=row.owner):
        return False
    if row.mlflow_run_id:
        Tracker().close_flow_run(row.mlflow_run_id, "KILLED", {}, [])
    return True
