"""Rows of the Hugging Face hub's data sets, or of local copies of them.

Where $DEPT_DATA names a folder, a task's rows come from <folder>/<task>/<hub split>.jsonl or .parquet, in the columns
of the hub: for machines without the hub, and for tests. A picture is bytes there (parquet), or the name of a file below
that folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InputError, of_hub
from infra.settings import settings
from tasks.formatting import Record
from tasks.picture_reader import check_pictures
from tasks.pictures import Finder
from tasks.sources.cells import Row, cell, missing, to_hub_record
from tasks.sources.classes import class_names, named, with_names
from tasks.sources.converters import convert
from tasks.sources.readers import Lines, read_jsonl, read_parquet
from tasks.spec import HubSource, Task

ROLES = ("train", "validation", "test")
DATA = "DEPT_DATA"


@dataclass(frozen=True)
class HubRows:
    """parts: role (train, validation, test) -> rows; unlabelled: rows left out because the hub hides their label."""

    parts: dict[str, list[Record]]
    unlabelled: int


def read_hub(task: Task) -> HubRows:
    """Rows of each split that the task's source names.

    Raises InputError for a hub out of reach, an unknown repository, revision or split, a missing column, a label
    outside the verbalizer or the grid, and a split without usable rows.
    """
    source = _hub(task)
    parts: dict[str, list[Record]] = {}
    unlabelled = 0
    for role, split in _splits(source).items():
        copy = local_copy(task, split)
        lines = _local(task, copy) if copy else _remote(task, split)
        names, find = Counter[str](), Finder(copy.parent if copy else None)
        parts[role] = []
        for index, (where, raw) in enumerate(_kept(lines, source)):
            row = _converted(task, raw, where)
            name = f"{role}-{index if source.id is None else cell(row, source.id, where)}"
            names[name] += 1
            name = name if names[name] == 1 else f"{name}.{names[name]}"
            picture = find(cell(row, source.picture, where), where) if source.picture else None
            found = to_hub_record(task, row, where, name, picture)
            if found is None:
                unlabelled += 1
            else:
                parts[role].append(found)
        if not parts[role]:
            raise InputError(
                f"task {task.name}: split {split!r} has no row with a label"
                f"{' where ' + ', '.join(f'{k} is {v}' for k, v in source.where) if source.where else ''}; "
                f"name another split under source.{role}"
            )
    check_pictures(record.picture for part in parts.values() for record in part if record.picture)
    return HubRows(parts, unlabelled)


def local_copy(task: Task, split: str) -> Path | None:
    """A split's local copy, where $DEPT_DATA has a folder for the task. Raises InputError if that lacks the split."""
    root = settings().data
    folder = root / task.name if root else None
    if folder is None or not folder.is_dir():
        return None
    for ending in ("jsonl", "parquet"):
        if (path := folder / f"{split}.{ending}").is_file():
            return path
    raise InputError(f"{folder}: no {split}.jsonl or {split}.parquet; add it, or take the folder away to use the hub")


def stamp(task: Task) -> tuple[Any, ...]:
    """Changes when a local copy changes."""
    copies = [local_copy(task, split) for split in _splits(_hub(task)).values()]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) if p else None for p in copies)


def _hub(task: Task) -> HubSource:
    if not isinstance(task.source, HubSource):
        raise TypeError(f"task {task.name} does not come from the hub: see tasks.sources.read.read_source")
    return task.source


def _splits(source: HubSource) -> dict[str, str]:
    return {role: split for role in ROLES if (split := getattr(source, role)) is not None}


def _local(task: Task, path: Path) -> Lines:
    return with_names(task, read_jsonl(path) if path.suffix == ".jsonl" else read_parquet(path), class_names(path))


def _remote(task: Task, split: str) -> Lines:
    source = _hub(task)
    try:
        from datasets import Image, load_dataset

        some = {"data_files": dict(source.files)} if source.files else {}
        rows = load_dataset(source.repo, source.config, revision=source.revision, split=split, **some)
        if source.where:
            # By one column at a time: the others, often long texts, stay on the disk.
            for column, wanted in source.where:
                rows = rows.filter(lambda value, wanted=wanted: _as_text(value) == wanted, input_columns=[column])
        also = [name for name in (source.id, source.picture) if name]
        used = [*task.columns.values(), source.label, *also, *dict(source.where)]
        if task.convert is None:  # a converter reads columns of its own
            rows = rows.select_columns(
                sorted({column if column in rows.column_names else column.partition(".")[0] for column in used})
            )
        if source.picture and isinstance(rows.features.get(source.picture), Image):
            rows = rows.cast_column(source.picture, Image(decode=False))  # its bytes: rows hold no pixels
    except Exception as error:  # the hub's client raises many kinds: no network, no such repository, a script
        raise InputError(
            f"task {task.name}: cannot load {source.repo} ({split}, revision {source.revision}) from the hub: "
            f"{of_hub(error)}. Check repo, config, revision, split and columns; without the hub set {DATA} to a folder "
            f"that holds {task.name}/{split}.jsonl or .parquet"
        ) from error
    known = named(rows.features.to_dict()) if rows.features else {}
    return with_names(task, _numbered(rows, f"{source.repo} {split}"), known)


def _numbered(rows: Any, what: str) -> Lines:
    index = 0
    for batch in rows.iter(batch_size=1000):  # tables of lists: many times faster than row by row
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            index += 1
            yield f"{what}, row {index}", dict(zip(names, values, strict=True))


def _kept(lines: Lines, source: HubSource) -> Iterator[tuple[str, Row]]:
    for where, row in lines:
        if all(_as_text(cell(row, column, where)) == wanted for column, wanted in source.where):
            yield where, row


def _converted(task: Task, row: Row, where: str) -> Row:
    try:
        return next(convert(task.convert, [row]))
    except KeyError as error:
        raise missing(str(error.args[0]), row, where) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: not in the columns that convert: {task.convert} reads ({error})") from error


def _as_text(value: Any) -> str:
    return ("false", "true")[value] if isinstance(value, bool) else str(value)
