"""Load the rows of a plan and find, before any training, all that can be wrong with them. No torch here."""

from __future__ import annotations

from collections.abc import Callable

from flows.planning.leakage import guarded
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.draws import check_draw
from tasks.load import load_splits
from tasks.spec import Task
from tasks.splits import Splits

Stored = Callable[[Task, str], Splits]  # rows of a task that lie in the store, by their sha256


def check(plan: Plan, stored: Stored | None = None) -> dict[str, Splits]:
    """The rows of every task, each task read once.

    Args:
        stored: reads the rows that the plan names by their sha256.

    Raises:
        InputError: unknown task, unreadable rows, a label without a training row, no test row, k larger than the rows.

    Returns:
        Rows by task; sources without the rows that a target is tested or validated on.
    """
    tasks = plan.resolve_tasks()
    splits = {}
    for name, task in tasks.items():  # finds labels without rows and damaged files
        there = plan.stored.get(name)
        splits[name] = stored(task, there) if there and stored else load_splits(task)
    for name in plan.targets:
        check_draws(plan, tasks[name], splits[name])
    return guarded(plan, splits)


def check_draws(plan: Plan, task: Task, rows: Splits) -> None:
    """Whether the shots of a target can be drawn.

    Raises:
        InputError: there are too few rows for a draw.
    """
    for k in filter(None, plan.counted):
        try:
            check_draw(rows, k, task.strata, plan.per_class, checks=plan.validation == "shots")
        except InputError as error:
            raise InputError(f"task {task.name}: {error}") from error
