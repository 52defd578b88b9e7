"""The tasks that come with the product: every block of every YAML file in this folder."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from infra.errors import InputError
from tasks.spec import Task
from tasks.yaml_file import read_yaml


def read_tasks(path: Path) -> dict[str, Task]:
    """Tasks of one YAML file (task name -> block), in its order.

    Relative paths of data files count from the YAML file's folder. Raises InputError for a file that cannot be read,
    is not YAML, or holds a bad block.
    """
    blocks = read_yaml(path)
    if not isinstance(blocks, dict) or not blocks:
        raise InputError(f"{path}: holds no task; write blocks of `task-name:` with template, verbalizer and source")
    return {name: Task.build(name, block, str(path)).rooted(path.parent) for name, block in blocks.items()}


@lru_cache(maxsize=1)
def _shipped() -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        for name, task in read_tasks(path).items():
            if name in tasks:
                raise InputError(f"{path}: task {name!r} is already in another file of the catalogue; rename one")
            tasks[name] = task
    return tuple(tasks.values())


def catalogue() -> dict[str, Task]:
    """All tasks of the catalogue by name; a fresh dict at each call."""
    return {task.name: task for task in _shipped()}


def get_task(name: str) -> Task:
    """The catalogue's task `name`. Raises InputError that lists the known names."""
    tasks = catalogue()
    if name in tasks:
        return tasks[name]
    close = difflib.get_close_matches(name, tasks, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise InputError(f"Unknown task {name!r}.{hint} Known tasks: {', '.join(tasks)}.")
