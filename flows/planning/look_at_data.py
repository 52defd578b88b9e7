"""What the columns of a user's data hold: the facts that `dept tasks new` guesses from. Pure but for reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.settings import settings
from tasks.sources.cells import Row
from tasks.sources.delimited import read_csv
from tasks.sources.hub import DATA
from tasks.sources.readers import decode, read_jsonl, read_parquet

DELIMITERS = ",;\t|"
CSV = {".csv", ".tsv", ".txt"}
MOST_ROWS = 200_000  # of a data set that are looked at: labels and bounds come from them


@dataclass
class Data:
    """rows: flat, structs as dotted columns. words: names of a column's class numbers. splits: the hub's, with rows."""

    rows: list[Row]
    delimiter: str = ","
    words: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[Row]] = field(default_factory=dict)

    def column(self, name: str) -> Column:
        """The values of a column, in the order of the rows. Raises InputError for a column that is not there."""
        if name not in self.names:
            raise InputError(f"tasks new: no column {name!r}; columns there: {', '.join(self.names)}")
        return Column(name, [row.get(name) for row in self.rows])

    @property
    def names(self) -> list[str]:
        """All columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def labelled(self, label: str) -> dict[str, int]:
        """Rows with a label of each split of the hub; some hide those of the test split (null or -1)."""
        counts = {name: sum(row.get(label) not in (None, -1) for row in part) for name, part in self.splits.items()}
        return {name: count for name, count in counts.items() if count}


@dataclass
class Column:
    """One column: its name and values."""

    name: str
    values: list[Any]

    def __post_init__(self) -> None:
        self.there = [value for value in self.values if value is not None and value != "" and value != []]
        self.missing = len(self.values) - len(self.there)
        self.lists = bool(self.there) and all(isinstance(value, list) for value in self.there)
        self.text = bool(self.there) and all(isinstance(value, str) for value in self.there)
        plain = [str(value) for value in self.there]
        self.distinct = len(set(plain))
        self.words = sum(len(value.split()) for value in plain) / max(1, len(plain))

    @property
    def numbers(self) -> list[float] | None:
        """The values as numbers; None where one is none."""
        found = []
        for value in self.there:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                return None
            try:
                found.append(float(value))
            except ValueError:
                return None
        return found if found and all(map(math.isfinite, found)) else None

    @property
    def names_rows(self) -> bool:
        """Whether the column looks like a row's id."""
        name = self.name.casefold()
        called = name in ("id", "idx", "index", "guid", "uid", "uuid", "key", "unnamed: 0", "")
        if called or name.endswith(("_id", ".id", "-id")):
            return True
        single = bool(self.there) and self.words <= 1 and self.distinct == len(self.there) > 2
        return single and (self.numbers is None or all(value.is_integer() for value in self.numbers or ()))


def look_at_file(path: Path) -> Data:
    """Rows of a csv, tsv, jsonl or parquet file.

    Raises:
        InputError: no such file, an unknown ending, a file that cannot be read or holds no rows.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a csv, jsonl or parquet file, or owner/name of a hub data set")
    ending, delimiter = path.suffix.lower(), ","
    if ending in CSV:
        delimiter = _delimiter(path)
        lines = read_csv(path, [], delimiter)
    elif ending in (".jsonl", ".ndjson"):
        lines = read_jsonl(path)
    elif ending == ".parquet":
        lines = read_parquet(path)
    else:
        raise InputError(f"{path}: cannot tell its format by the ending {ending!r}; rename it .csv, .jsonl or .parquet")
    rows = [flat(row) for _, row in lines]
    if not rows:
        raise InputError(f"{path}: holds no rows")
    return Data(rows, delimiter)


def look_at_hub(repo: str, name: str, config: str | None, revision: str) -> Data:
    """Rows of the training split of a hub data set, or of a local copy ($DEPT_DATA/<name>), and its other splits.

    Raises:
        InputError: the hub, the data set or its training split is out of reach.
    """
    root = settings().data
    folder = root / name if root else None
    if folder is not None and folder.is_dir():
        splits = {path.stem: look_at_file(path) for path in sorted(folder.glob("*.*"))}
        rows = {split: found.rows for split, found in splits.items()}
        words: dict[str, list[str]] = {}
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


def _delimiter(path: Path) -> str:
    head = decode(path).split("\n", 1)[0]
    return max(DELIMITERS, key=lambda mark: (head.count(mark), mark == ","))


def _remote(repo: str, config: str | None, revision: str) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    try:
        from datasets import ClassLabel, load_dataset

        found = load_dataset(repo, config, revision=revision)
        rows = {
            split: [flat(row) for row in part.select(range(min(len(part), MOST_ROWS)))] for split, part in found.items()
        }
        features = next(iter(found.values())).features
        words = {name: list(kind.names) for name, kind in features.items() if isinstance(kind, ClassLabel)}
    except Exception as error:  # the hub's client raises many kinds: no network, no such repository, a script
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"tasks new: cannot load {repo} (revision {revision}) from the hub: {reason}. Check the id, --config and "
            f"--revision; without the hub give a file, or set {DATA} to a folder that holds NAME/train.jsonl"
        ) from error
    return rows, words
