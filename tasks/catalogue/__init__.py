"""The tasks that come with the product: every block of every YAML file in this folder."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from infra.errors import InputError
from tasks.spec import Task


class _Loader(yaml.SafeLoader):
    """PyYAML lets the second of two equal keys win; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"key {key.value!r} stands there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_tasks(path: Path) -> dict[str, Task]:
    """Tasks of one YAML file (task name -> block), in its order.

    Relative paths of data files count from the YAML file's folder. Raises InputError for a file that cannot be read,
    is not YAML, or holds a bad block.
    """
    try:
        blocks = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
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
