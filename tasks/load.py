"""The rows of a task, read once: kept as long as someone uses them, and beyond that within a bound of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

from tasks.sources.hub import read_hub
from tasks.sources.hub import stamp as hub_stamp
from tasks.sources.read import read_parts, read_source, stamp
from tasks.spec import FileSource, HubSource, PackageSource, Task
from tasks.splits import Splits, make_file_splits, make_hub_splits, make_splits

MOST_BYTES = 2 << 30  # of rows that no one holds any more
ROW_BYTES = 400  # of a row beside its text: the object, its id and key

_Key = tuple[Task, tuple[Any, ...]]
_lock = threading.RLock()
_alive: WeakValueDictionary[_Key, Splits] = WeakValueDictionary()
_recent: OrderedDict[_Key, tuple[Splits, int]] = OrderedDict()


def load_splits(task: Task) -> Splits:
    """Rows of `task`, cleaned and split; read again only when the task or a file of it has changed.

    Raises InputError for bad rows (see sources.read, sources.hub), a label without rows, or fewer than three rows of
    one.
    """
    key = (task, hub_stamp(task) if isinstance(task.source, HubSource) else stamp(task))
    with _lock:
        found = _alive.get(key)
        if found is None:
            found = _alive[key] = _read(task)
            _recent[key] = (found, _bytes(found))
            while len(_recent) > 1 and sum(size for _, size in _recent.values()) > MOST_BYTES:
                _recent.popitem(last=False)
        elif key in _recent:
            _recent.move_to_end(key)
        return found


def _read(task: Task) -> Splits:
    if isinstance(task.source, HubSource):
        rows = read_hub(task)
        return make_hub_splits(task, rows.parts, rows.unlabelled)
    if isinstance(task.source, FileSource) or (isinstance(task.source, PackageSource) and task.source.test):
        return make_file_splits(task, *read_parts(task))
    return make_splits(task, *read_source(task))


def _bytes(splits: Splits) -> int:
    return sum(ROW_BYTES + len(row.text) + len(row.target) for part in splits.parts().values() for row in part)
