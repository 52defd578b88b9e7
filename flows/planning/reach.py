"""Whether the rows of a task are on this machine."""

from __future__ import annotations

from infra.errors import InputError
from tasks.sources.hub import local_copy
from tasks.sources.read import locate
from tasks.spec import HubSource, Task


def in_reach(task: Task) -> bool:
    """Whether a task's rows are on this machine: an installed wheel, a file, or a local copy of a hub data set."""
    try:
        if isinstance(task.source, HubSource):
            return local_copy(task, task.source.train) is not None
        return bool(locate(task.source))
    except InputError:
        return False
