"""Own tasks of a plan, made known outside it: their blocks in the ledger, their rows in the store. No torch here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.execution.context import RunContext
from flows.planning.plan import Plan
from tasks.load import load_splits
from tasks.rows_file import write_rows


def remember(context: RunContext, plan: Plan) -> None:
    """Keep each own task that the plan uses, with its rows as they are now; a changed file is kept beside the old.

    Raises:
        InputError: the store or the ledger cannot be written.
    """
    blocks, rows = {}, {}
    with tempfile.TemporaryDirectory(prefix="dept-rows-") as folder:
        for name in (task.name for task in plan.own_tasks if task.name in context.tasks):
            task, file = context.tasks[name], Path(folder) / "rows"
            rows[name] = write_rows(task, load_splits(task), file)  # all of them: leakage is a matter of each plan
            context.store.put_file(file, f"rows/{rows[name]}")
            blocks[name] = task.model_dump(mode="json")
    if blocks:
        context.ledger.remember_tasks(blocks, rows)
