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
    """End the task runs that a crash left behind, and start the flow run again if it was asked to (`restart`).

    Args:
        flow_run_id: of the run that crashed.
    """
    with hidden_credentials():
        ended, said = end_task_runs(), restart(flow_run_id.hex)
        told = f"{ended} task runs of crashed flow runs were ended; {said}."
        get_run_logger().info(told)
        return told
