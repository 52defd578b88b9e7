"""Own tasks, made known outside their plan: their blocks in the ledger, their rows in the store. No torch here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.catalogue import catalogue
from tasks.load import load_splits
from tasks.rows_file import write_rows
from tasks.spec import Task

if TYPE_CHECKING:
    from flows.execution.context import RunContext
    from flows.planning.plan import Plan
    from registry.ledger import Ledger
    from registry.store import Store


def known_tasks(ledger: Ledger, own: Iterable[Task] = ()) -> dict[str, Task]:
    """The catalogue, own tasks that the ledger remembers, and those given."""
    found = catalogue()
    for name, row in ledger.own_tasks().items():
        try:
            found[name] = Task.model_validate({**row.block, "name": name})
        except ValidationError:  # of another version: a plan that names the task brings it anew
            continue
    return found | {task.name: task for task in own}


def keep_tasks(tasks: Iterable[Task], ledger: Ledger, store: Store) -> None:
    """Keep each task, with its rows as they are now; a changed file is kept beside the old.

    Raises:
        InputError: rows that cannot be read, a store or a ledger that cannot be written.
    """
    found = [(task, load_splits(task)) for task in tasks]  # all are read before anything is kept
    blocks, rows = {}, {}
    with tempfile.TemporaryDirectory(prefix="dept-rows-") as folder:
        for task, splits in found:
            file = Path(folder) / "rows"
            rows[task.name] = write_rows(task, splits, file)
            store.put_file(file, f"rows/{rows[task.name]}")
            blocks[task.name] = task.model_dump(mode="json")
    if blocks:
        ledger.remember_tasks(blocks, rows)


def remember(context: RunContext, plan: Plan) -> None:
    """Keep each own task that the plan uses, with all its rows: leakage is a matter of each plan. As `keep_tasks`."""
    used = [context.tasks[task.name] for task in plan.own_tasks if task.name in context.tasks]
    keep_tasks(used, context.ledger, context.store)
