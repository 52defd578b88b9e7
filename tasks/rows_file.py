"""A task's cleaned rows as one file that any machine reads back into the same splits: for the store.

Pictures go into a second file: their bytes one after the other, by sha256; the rows' file says where each begins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InputError
from tasks.formatting import Example
from tasks.order import Tested
from tasks.pictures import Picture, payload_of
from tasks.spec import Task
from tasks.splits import Splits, made

FORMAT, PICTURED = 1, 2  # of rows without pictures, and with


@dataclass(frozen=True)
class Pack:
    """A file of pictures: sha256 (hex) of it, and of each picture in its order, with its bytes."""

    sha256: str
    sizes: dict[str, int]


def write_pictures(splits: Splits, path: Path) -> Pack | None:
    """Write the pictures of all rows to `path`, each once; None (and no file) where the rows have none.

    Raises:
        InputError: a picture that is gone or has changed since its row was read.
    """
    found = {row.picture.sha256: row.picture for part in splits.parts().values() for row in part if row.picture}
    if not found:
        return None
    digest, sizes = hashlib.sha256(), dict[str, int]()
    with path.open("wb") as file:
        for name in sorted(found):
            payload = payload_of(found[name])
            digest.update(payload)
            file.write(payload)
            sizes[name] = len(payload)
    return Pack(digest.hexdigest(), sizes)


def write_rows(task: Task, splits: Splits, path: Path, pack: Pack | None = None) -> str:
    """Write the rows of a task to `path`; returns the sha256 (hex) of the file.

    Equal rows make equal bytes, on every machine and in whatever order they were read.

    Args:
        pack: what `write_pictures` returned for these rows.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for line in _lines(task, splits, pack):
            raw = f"{json.dumps(line, sort_keys=True, ensure_ascii=True)}\n".encode()
            digest.update(raw)
            file.write(raw)
    return digest.hexdigest()


def read_rows(
    task: Task, path: Path, sha256: str | None = None, pictures: Callable[[str], Path] | None = None
) -> Splits:
    """The splits that `write_rows` has written, of the same data_hash.

    Args:
        task: the task they were written for.
        sha256: what the file's bytes must have; None: not asked.
        pictures: gives the file of pictures of a sha256; asked for rows that have some.

    Raises:
        InputError: a file that cannot be read, is damaged, or holds the rows of another task.
    """
    try:
        raw = path.read_bytes()
        if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
            raise InputError(f"{path}: not the file that was stored (another sha256). Remedy: fetch it again")
        head, *rows = [json.loads(line) for line in raw.splitlines()]
        if head["format"] not in (FORMAT, PICTURED):
            raise InputError(f"{path}: rows of format {head['format']}, but this version reads {FORMAT} and {PICTURED}")
        places = _places(head, pictures) if head["format"] == PICTURED else {}
        parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": [], "judge": []}
        for row in rows:
            parts[row.pop("part")].append(_example(row, places))
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


def _lines(task: Task, splits: Splits, pack: Pack | None) -> Iterator[dict[str, Any]]:
    whole = dict(splits.test.whole) if isinstance(splits.test, Tested) else {}
    head: dict[str, Any] = {"format": FORMAT, "task": task.name, "data_hash": splits.data_hash}
    head["dropped"] = splits.dropped
    if pack is not None:
        head |= {"format": PICTURED, "pack": pack.sha256, "sizes": sorted(pack.sizes.items())}
    yield head | {"whole": {str(label): count for label, count in whole.items()}}
    for part, rows in splits.parts().items():
        for row in sorted(rows, key=lambda row: row.id):
            line = {name: getattr(row, name) for name in ("id", "text", "label", "target", "answers", "value")}
            seen = {"picture": row.picture.sha256} if row.picture else {}
            yield line | {"part": part, "group": row.group, "key": row.key} | seen


def _places(head: dict[str, Any], pictures: Callable[[str], Path] | None) -> dict[str, Picture]:
    """Where each picture of the rows lies."""
    if pictures is None:
        raise InputError(f"rows of task {head['task']} have pictures. Remedy: give the file of these, too")
    path, start, found = str(pictures(head["pack"])), 0, dict[str, Picture]()
    for name, size in head["sizes"]:
        found[name] = Picture(name, path, start, size)
        start += size
    return found


def _example(row: dict[str, Any], places: dict[str, Picture]) -> Example:
    seen = {"picture": places[row["picture"]]} if "picture" in row else {}
    return Example(**row | {"answers": tuple(row["answers"])} | seen)
