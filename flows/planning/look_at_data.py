"""What the columns of a user's data hold: the facts that `dept tasks new` guesses from. Pure but for reading."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import InputError, of_hub
from infra.names import expanded
from tasks.plain import listed, normalise, shown
from tasks.sources.cells import NO_NUMBER, NOTHING, Row, hub_answer, nothing, written
from tasks.sources.classes import class_names, named
from tasks.sources.delimited import check_columns, headers
from tasks.sources.hub import DATA
from tasks.sources.read import ENDINGS, read_table, saved_splits
from tasks.spec import Task

DELIMITERS = ",;\t|"
CSV = {".csv", ".tsv", ".txt"}
FILES = {*CSV, *ENDINGS}
MOST_ROWS = 200_000  # of a data set that are looked at: labels and bounds come from them
MOST_COLUMNS = 2000
NO_WORD = NO_NUMBER | {"null", "NULL", "#N/A"}  # not taken for labels, even among labels that are words


@dataclass
class Data:
    """rows: flat, structs as dotted columns. words: names of a column's class numbers. splits: role or name in the hub
    -> rows. delimiter: of a csv; None for other files. paths: role -> file, where there are several."""

    rows: list[Row]
    delimiter: str | None = None
    words: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[Row]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    def column(self, name: str) -> Column:
        """The values of a column, in the order of the rows. Raises InputError for a column that is not there."""
        if name not in self.names:
            raise InputError(f"tasks new: no column {shown(name)}; columns there: {listed(self.names)}")
        return Column(name, [row.get(name) for row in self.rows])

    @cached_property
    def names(self) -> dict[str, None]:
        """All columns, in the order of their first appearance."""
        return dict.fromkeys(name for row in self.rows for name in row)

    def answers(self, label: str) -> Column:
        """The answers of all splits; without those that some data sets hide (null or -1) in the others than train."""
        shown = [
            row.get(label)
            for part in self.splits.values()
            if part is self.rows or any(not nothing(row.get(label)) and row.get(label) != -1 for row in part)
            for row in part
        ]
        named, own = label in self.words, self.column(label)
        hides = named or -1 not in own.values
        return Column(label, [value for value in shown if not (hides and value == -1)] if shown else own.values)

    def labelled(self, task: Task) -> dict[str, int]:
        """Rows with a label of each split that has any, by the rule that holds when they are read."""
        counts = {name: sum(_has_answer(task, row) for row in part) for name, part in self.splits.items()}
        return {name: count for name, count in counts.items() if count}


@dataclass
class Column:
    """One column: its name and values. there: those that hold something; missing: how many do not."""

    name: str
    values: list[Any]

    def __post_init__(self) -> None:
        there = [value for value in self.values if not nothing(value) and not _no_word(value)]
        self.there = [value for value in there if not isinstance(value, str) or value.strip()]
        said = [value for value in self.there if not (isinstance(value, str) and value.strip() in NOTHING)]
        if said and _numbers(said):  # among numbers NA and None are no labels
            self.there = said
        self.missing = len(self.values) - len(self.there)
        self.lists = bool(self.there) and all(isinstance(value, list) for value in self.there)
        self.text = bool(self.there) and all(isinstance(value, (str, bytes)) for value in self.there)
        plain = [str(value) for value in self.there]
        self.distinct = len(set(plain))
        self.words = sum(len(value.split()) for value in plain) / max(1, len(plain))

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers; None where one is none."""
        return _numbers(self.there)

    @cached_property
    def keys(self) -> set[str]:
        """The values as labels, as `tasks check` will read them; 1 for 1.0 where all numbers are whole."""
        plain = {normalise(written(value, "tasks new", self.name)) for value in self.there}
        if any(isinstance(value, (float, Decimal)) for value in self.there):
            whole = {key: f"{float(key):.0f}" for key in plain if _whole(key)}
            return set(whole.values()) if len(whole) == len(plain) else plain
        return plain

    @property
    def names_rows(self) -> bool:
        """Whether the column looks like a row's id."""
        name = self.name.casefold()
        called = name in ("id", "idx", "index", "guid", "uid", "uuid", "key", "unnamed: 0", "")
        if called or name.endswith(("_id", ".id", "-id")):
            return True
        single = bool(self.there) and self.words <= 1 and self.distinct == len(self.there) > 2
        return single and (self.numbers is None or all(value.is_integer() for value in self.numbers or ()))


def _has_answer(task: Task, row: Row) -> bool:
    try:
        return hub_answer(task, row.get(task.source.label), "tasks new") is not None
    except InputError:  # hidden as a number outside the grid
        return False


def look_at_file(path: Path) -> Data:
    """Rows of a csv, tsv, jsonl or parquet file, or of a folder that save_to_disk of `datasets` wrote.

    Raises:
        InputError: no such file, an unknown ending, a file that cannot be read or holds no rows.
    """
    if path.is_dir():
        return _look_at_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a csv, jsonl or parquet file, or owner/name of a hub data set")
    ending, delimiter = path.suffix.lower(), None
    if ending not in FILES:
        raise InputError(
            f"{path}: cannot tell its format by the ending {shown(ending)}; unpack it, or save it as .csv, .jsonl or "
            ".parquet"
        )
    if ending in CSV:
        names = headers(path, DELIMITERS)
        delimiter = max(DELIMITERS, key=lambda mark: (len(names[mark]), mark == ","))
        check_columns(names[delimiter], MOST_COLUMNS, f"{path}, line 1")
    rows = [flat(row) for _, row in read_table(path, format=ENDINGS.get(ending, "csv"), delimiter=delimiter)]
    if not rows:
        raise InputError(f"{path}: holds no rows")
    if len(rows[0]) > MOST_COLUMNS:
        check_columns(list(rows[0]), MOST_COLUMNS, str(path))
    return Data(rows, delimiter, words=class_names(path))


def look_at_files(files: dict[str, Path]) -> Data:
    """Rows of a user's files by role (train, validation, test): those of train, and all as splits.

    Raises:
        InputError: see `look_at_file`; files of different columns.
    """
    found = {role: look_at_file(path) for role, path in files.items()}
    train = found["train"]
    for role, data in found.items():
        lost = [name for name in train.names if name not in data.names]
        if lost and role != "train":
            raise InputError(f"{files[role]}: no column {shown(lost[0])}, which {files['train']} has")
    splits = {role: data.rows for role, data in found.items()}
    return Data(train.rows, train.delimiter, train.words, splits, dict(files))


def look_at_hub(repo: str, name: str, config: str | None, revision: str) -> Data:
    """Rows of the training split of a hub data set, or of a local copy ($DEPT_DATA/<name>), and its other splits.

    Raises:
        InputError: the hub, the data set or its training split is out of reach.
    """
    root = os.environ.get(DATA)
    folder = expanded(root) / name if root else None
    if folder is not None and folder.is_dir():
        splits = {path.stem: look_at_file(path) for path in sorted(folder.glob("*.*"))}
        rows = {split: found.rows for split, found in splits.items()}
        words = splits["train"].words if "train" in splits else {}
    else:
        rows, words = _remote(repo, config, revision)
    if "train" not in rows:
        raise InputError(
            f"{repo}: no split called train; there are {', '.join(rows) or 'none'}. Write the block by hand"
        )
    return Data(rows["train"], words=words, splits=rows)


def flat(row: Row, before: str = "") -> Row:
    """Structs as dotted columns: {"a": {"b": 1}} -> {"a.b": 1}; lists of structs too."""
    found: Row = {}
    for key, value in row.items():
        name = f"{before}{key}"
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {part: [item.get(part) for item in value] for part in value[0]}
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def share_found(answers: Sequence[Any], texts: Sequence[Any]) -> float:
    """Share of the rows whose answer (or one of its list) stands in the text, case apart."""
    found = total = 0
    for answer, text in zip(answers, texts, strict=True):
        several = [a for a in (answer if isinstance(answer, list) else [answer]) if isinstance(a, str) and a.strip()]
        if several and isinstance(text, str):
            total += 1
            found += any(a.strip().casefold() in text.casefold() for a in several)
    return found / total if total else 0.0


def _look_at_folder(path: Path) -> Data:
    places = saved_splits(path) or {"train": path}
    splits = {role: [flat(row) for _, row in read_table(place, format="dataset")] for role, place in places.items()}
    if not splits["train"]:
        raise InputError(f"{path}: holds no rows")
    return Data(splits["train"], words=class_names(places["train"]), splits=splits, paths=places)


def _no_word(value: Any) -> bool:
    return isinstance(value, str) and value.strip() in NO_WORD


def _numbers(values: Sequence[Any]) -> list[float] | None:
    found = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            return None
        try:
            found.append(float(value))
        except (ValueError, OverflowError):
            return None
    return found if found and all(map(math.isfinite, found)) else None


def _whole(key: str) -> bool:
    try:
        return float(key).is_integer()
    except ValueError:
        return False


def _remote(repo: str, config: str | None, revision: str) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    try:
        from datasets import load_dataset

        found = load_dataset(repo, config, revision=revision)
        rows = {
            split: [flat(row) for row in part.select(range(min(len(part), MOST_ROWS)))] for split, part in found.items()
        }
        words = named(next(iter(found.values())).features.to_dict())
    except Exception as error:  # the hub's client raises many kinds: no network, no such repository, a script
        raise InputError(
            f"tasks new: cannot load {repo} (revision {revision}) from the hub: {of_hub(error)}. Check the id, "
            f"--config and --revision; without the hub give a file, or set {DATA} to a folder with NAME/train.jsonl"
        ) from error
    return rows, words
