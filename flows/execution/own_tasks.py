"""Own tasks are remembered with their rows, so that they are known outside the plan that brought them."""

from __future__ import annotations

from collections.abc import Iterable

from registry.ledger import Ledger
from tasks.spec import Task


def remember_tasks(ledger: Ledger, tasks: Iterable[Task]) -> None:
    """Keep the blocks of own tasks in the ledger.

    Raises:
        InputError: the ledger does not answer.
    """
    ledger.remember_tasks({task.name: task.model_dump(mode="json") for task in tasks})
