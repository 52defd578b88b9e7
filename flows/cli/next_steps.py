"""What a user may want after a run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.planning.plan import Plan
    from tasks.spec import Task


def next_steps(plan: Plan) -> list[str]:
    """Lines that name the commands which answer, show and explain; with the addresses of servers that answer."""
    from flows.cli.state import pages

    tasks = plan.resolve_tasks()
    served = next(map(tasks.__getitem__, plan.targets), None)
    lines = ["", "Next:"]
    if plan.register and served is not None:
        lines.append(f"  dept predict --task {served.name} {_where(plan, served)}{_text(served)}")
    lines.append("  dept report --last     this table again; its page has plots and every trial")
    found = pages()
    if found:
        lines += [f"  {name}: {address}" for name, address in found.items()]
    else:
        lines.append("  dept up                pages of runs and models, and a worker that waits")
    return lines


def runs_page(run_id: str) -> str | None:
    """MLflow's page of a run, where runs are kept by a server."""
    from infra.settings import settings

    if not (settings().mlflow_tracking_uri or "").startswith("http"):
        return None
    from registry.tracking import Tracker

    return Tracker().link(run_id)


def _where(plan: Plan, task: Task) -> str:
    """The backbone, where a task has champions on several. What cannot be asked now is no failure of the run."""
    from infra.errors import InputError
    from registry.serving.champions import champion_backbones

    with contextlib.suppress(InputError):
        return f"--backbone {plan.backbone} " if len(champion_backbones(task.name)) > 1 else ""
    return ""


def _text(task: Task) -> str:
    """What the task reads, as an argument: one text, or a file where there are several columns."""
    fields = task.fields
    if len(fields) > 1:
        from registry.promotion.model import picture_column

        columns = (*fields, picture_column(fields)) if task.sees else fields
        return f"--file rows.csv   (columns: {', '.join(columns)})"
    said = '"what a lovely film"' if not task.sees else '"what is to be seen?"' if fields else ""
    return f"--picture photo.png {said}".rstrip() if task.sees else said
