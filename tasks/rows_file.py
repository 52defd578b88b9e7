"""A task's cleaned rows as one file that any machine reads back into the same splits: for the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import InputError
from tasks.formatting import Example
from tasks.order import Tested
from tasks.spec import Task
from tasks.splits import Splits, made

FORMAT = 1


def write_rows(task: Task, splits: Splits, path: Path) -> str:
    """Write the rows of a task to `path`; returns the sha256 (hex) of the file.

    Equal rows make equal bytes, on every machine and in whatever order they were read.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for line in _lines(task, splits):
            raw = f"{json.dumps(line, sort_keys=True, ensure_ascii=True)}\n".encode()
            digest.update(raw)
            file.write(raw)
    return digest.hexdigest()


def read_rows(task: Task, path: Path, sha256: str | None = None) -> Splits:
    """The splits that `write_rows` has written, of the same data_hash.

    Args:
        task: the task they were written for.
        sha256: what the file's bytes must have; None: not asked.

    Raises:
        InputError: a file that cannot be read, is damaged, or holds the rows of another task.
    """
    try:
        raw = path.read_bytes()
        if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
            raise InputError(f"{path}: not the file that was stored (another sha256). Remedy: fetch it again")
        head, *rows = [json.loads(line) for line in raw.splitlines()]
        if head["format"] != FORMAT:
            raise InputError(f"{path}: rows of format {head['format']}, but this version reads {FORMAT}")
        parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": [], "judge": []}
        for row in rows:
            parts[row.pop("part")].append(_example(row))
        whole = {int(label): count for label, count in head["whole"].items()}
        found = made(task, parts, head["dropped"], whole=whole or None)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a file of a task's rows, or damaged. Remedy: fetch it again") from error
    if found.data_hash != head["data_hash"]:
        raise InputError(
            f"{path}: rows of task {head['task']} as it was then; task {task.name} has another template, verbalizer or "
            "metric now. Remedy: the task's block as it was"
        )
    return found


def _lines(task: Task, splits: Splits) -> Iterator[dict[str, Any]]:
    whole = dict(splits.test.whole) if isinstance(splits.test, Tested) else {}
    head = {"format": FORMAT, "task": task.name, "data_hash": splits.data_hash, "dropped": splits.dropped}
    yield head | {"whole": {str(label): count for label, count in whole.items()}}
    for part, rows in splits.parts().items():
        for row in sorted(rows, key=lambda row: row.id):
            line = {name: getattr(row, name) for name in ("id", "text", "label", "target", "answers", "value")}
            yield line | {"part": part, "group": row.group, "key": row.key}


def _example(row: dict[str, Any]) -> Example:
    return Example(**row | {"answers": tuple(row["answers"])})
