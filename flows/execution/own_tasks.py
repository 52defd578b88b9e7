"""Own tasks, made known outside their plan: their blocks in the ledger, their rows in the store. No torch here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.catalogue import catalogue
from tasks.load import load_splits
from tasks.rows_file import read_rows, write_pictures, write_rows
from tasks.spec import Task
from tasks.splits import Splits

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


def keep_tasks(tasks: Iterable[Task], ledger: Ledger, store: Store) -> dict[str, str]:
    """Keep each task, with its rows as they are now; a changed file is kept beside the old.

    Returns:
        The sha256 of each task's rows: `rows/<sha256>` names them in the store. Their pictures are one file there,
        `pictures/<sha256>`, which the rows name.

    Raises:
        InputError: rows that cannot be read, a store or a ledger that cannot be written.
    """
    found = [(task, load_splits(task)) for task in tasks]  # all are read before anything is kept
    blocks, rows = {}, {}
    with tempfile.TemporaryDirectory(prefix="dept-rows-") as folder:
        for task, splits in found:
            file, pictures = Path(folder) / "rows", Path(folder) / "pictures"
            if pack := write_pictures(splits, pictures):
                store.put_file(pictures, f"pictures/{pack.sha256}")
            rows[task.name] = write_rows(task, splits, file, pack)
            store.put_file(file, f"rows/{rows[task.name]}")
            blocks[task.name] = task.model_dump(mode="json")
    if blocks:
        ledger.remember_tasks(blocks, rows)
    return rows


def remember(context: RunContext, plan: Plan) -> Plan:
    """Keep each own task that the plan uses, with all its rows: leakage is a matter of each plan. As `keep_tasks`.

    Returns:
        The plan, with what names those rows: no other machine needs its files.
    """
    used = {task.name: context.tasks[task.name] for task in plan.own_tasks if task.name in context.tasks}
    there = {name: sha256 for name, sha256 in plan.stored.items() if name in used}
    blocks = {name: used[name].model_dump(mode="json") for name in there}
    context.ledger.remember_tasks(blocks, there)
    kept = keep_tasks([task for name, task in used.items() if name not in there], context.ledger, context.store)
    return plan.model_copy(update={"stored": there | kept})


def stored_rows(store: Store) -> Callable[[Task, str], Splits]:
    """A reader of rows that lie in a store, by their sha256; see `flows.planning.check.check`."""

    def read(task: Task, sha256: str) -> Splits:
        rows = store.fetch(f"rows/{sha256}")
        return read_rows(task, rows, sha256, lambda pictures: store.fetch(f"pictures/{pictures}"))

    return read
