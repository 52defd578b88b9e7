"""Whether a backbone can do tasks whose rows have pictures, asked before any of these is fetched. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dept.backbones.describe import BackboneInfo
from infra.errors import InputError
from tasks.spec import Task


def reads_pictures(backbone: BackboneInfo) -> bool:
    """Whether a backbone reads pictures: what `BackboneInfo.reads_pictures` says, and no where it says nothing."""
    return bool(getattr(backbone, "reads_pictures", False))


def check_pictures(name: str, tasks: Mapping[str, Task], info: Callable[[], BackboneInfo | None]) -> None:
    """Refuse tasks with pictures on a backbone that reads none. Without such tasks nothing is asked.

    Args:
        name: the backbone's, as the plan has it.
        info: describes it; None: not on this machine, so that nothing is known.

    Raises:
        InputError: there is such a task; or the backbone cannot be described.
    """
    with_pictures = [task.name for task in tasks.values() if task.sees]
    backbone = info() if with_pictures else None
    if backbone is not None and not reads_pictures(backbone):
        raise InputError(
            f"task {with_pictures[0]}: its rows have pictures, which backbone {name} does not read. Remedy: a backbone "
            "that does, or picture: hidden in the task, which leaves the text alone"
        )
