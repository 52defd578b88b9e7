"""Cleaning, splits and draws, all decided by sha256 so that every machine and every Python draws the same rows.

Rule of the splits, after cleaning, with n rows left: test n/5, at most 1000, at least 300 where n >= 900; validation
n/10, at most 500; the rest is the training pool. Each class keeps its share and has at least one row in each split.
Rows go by the sha256 of their folded text: the order of the file does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tasks.errors import InputError
from tasks.formatting import Example, Record, normalise, to_example
from tasks.sources import locate, read_source
from tasks.spec import Task

TEST_MOST, TEST_LEAST, VALIDATION_MOST = 1000, 300, 500


@dataclass(frozen=True)
class Splits:
    """Disjoint rows of a task. `train` is the pool that shots are drawn from.

    data_hash: sha256 (hex) over id, text, class index and word of each row of each split, so that another row,
    template, verbalizer or split gives another hash.
    dropped: rows left out, by cause (neutral, duplicate, conflicting).
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    data_hash: str
    dropped: dict[str, int]


def load_splits(task: Task) -> Splits:
    """Rows of `task`, cleaned and split; cached until the task or its file changes.

    Raises InputError for bad rows (see sources.read_source), a label without rows, or fewer than three rows of one.
    """
    stat = locate(task.source).stat()
    return _load(task, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _load(task: Task, stamp: tuple[int, int]) -> Splits:
    records, neutral = read_source(task)
    return make_splits(task, records, neutral)


def make_splits(task: Task, records: Iterable[Record], neutral: int = 0) -> Splits:
    """Splits of `records` by the module's rule. Raises InputError as `load_splits` does."""
    kept, duplicate, conflicting = _clean(records)
    pools: list[list[Example]] = [[] for _ in task.labels]
    for folded in sorted(kept, key=lambda text: _digest("split", text)):
        example = to_example(task, kept[folded])
        pools[example.label].append(example)
    for label, pool in zip(task.labels, pools, strict=True):
        if len(pool) < 3:
            raise InputError(
                f"task {task.name}: label {label!r} has {len(pool) or 'no'} usable rows; it needs at least three, one "
                f"each for training, validation and test ({duplicate} duplicate and {conflicting} conflicting rows "
                "were dropped)"
            )
    counts = [len(pool) for pool in pools]
    total, classes = sum(counts), len(counts)
    n_test = max(min(TEST_MOST, total // 5), TEST_LEAST if total >= 3 * TEST_LEAST else 0, classes)
    n_validation = max(min(VALIDATION_MOST, total // 10), classes)
    test = _shares(counts, n_test, [count - 2 for count in counts])
    left = [count - taken for count, taken in zip(counts, test, strict=True)]
    validation = _shares(left, n_validation, [count - 1 for count in left])
    parts: dict[str, list[Example]] = {"test": [], "validation": [], "train": []}
    for pool, a, b in zip(pools, test, validation, strict=True):
        parts["test"] += pool[:a]
        parts["validation"] += pool[a : a + b]
        parts["train"] += pool[a + b :]
    mixed = {name: tuple(_shuffled(rows, "mix", name)) for name, rows in parts.items()}
    dropped = {"neutral": neutral, "duplicate": duplicate, "conflicting": conflicting}
    return Splits(**mixed, data_hash=_data_hash(task, mixed), dropped=dropped)


def few_shot(splits: Splits, k: int, seed: int, n_labels: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """k shots and k validation rows, disjoint, both from the training pool: (shots, validation).

    Classes are as even as k allows (they differ by at most one row; the seed chooses which get the extra one, other
    classes in the validation than in the shots where it can). With k < n_labels some classes go without. Shots of the
    same seed are nested: those of a larger k include those of a smaller.
    Raises InputError for k < 1, a class without rows, and a class with too few for its part of both.
    """
    if k < 1:
        raise InputError(f"shots must be at least 1, not {k}")
    pools: list[list[Example]] = [[] for _ in range(n_labels)]
    for example in splits.train:
        pools[example.label].append(example)
    empty = [label for label, pool in enumerate(pools) if not pool]
    if empty:
        raise InputError(f"class {empty[0]} has no row in the training pool; give each label some rows")
    if 2 * k > len(splits.train):
        raise InputError(
            f"k={k} shots and as many validation rows need {2 * k} training rows, but there are {len(splits.train)}; "
            f"use k <= {_largest_k(pools)}"
        )
    order = sorted(range(n_labels), key=lambda label: _digest("extra", seed, label))
    each, extra = divmod(k, n_labels)
    shots: list[Example] = []
    validation: list[Example] = []
    for rank, label in enumerate(order):
        a = each + (rank < extra)
        b = each + ((rank - extra) % n_labels < extra)
        if a + b > len(pools[label]):
            raise InputError(
                f"k={k} shots and as many validation rows, balanced over {n_labels} classes, need {a + b} rows of "
                f"class {label}, but the training pool has {len(pools[label])}; use k <= {_largest_k(pools)}"
            )
        pool = _shuffled(pools[label], "shots", seed)
        shots += pool[:a]
        validation += pool[len(pool) - b :]
    return tuple(_shuffled(shots, "shots", seed)), tuple(_shuffled(validation, "shots", seed))


def subset(examples: Sequence[Example], n: int, seed: int) -> tuple[Example, ...]:
    """n random rows (all, if there are no more), each class with its share and at least one row where n allows.

    Depends on the rows, n and seed only, not on their order. Raises InputError for n < 1 or no rows.
    """
    if n < 1 or not examples:
        raise InputError(f"cannot take {n} of {len(examples)} rows; take at least 1 of at least 1")
    pools: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        pools[example.label].append(example)
    labels = sorted(pools)
    counts = [len(pools[label]) for label in labels]
    taken: list[Example] = []
    for label, part in zip(labels, _shares(counts, min(n, len(examples)), counts), strict=True):
        taken += _shuffled(pools[label], "subset", seed)[:part]
    return tuple(_shuffled(taken, "subset", seed))


def _clean(records: Iterable[Record]) -> tuple[dict[str, Record], int, int]:
    """Folded text -> record, and the numbers of duplicate and of conflicting rows left out."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups["\x1f".join(normalise(value).casefold() for _, value in sorted(record.fields.items()))].append(record)
    kept, duplicate, conflicting = {}, 0, 0
    for folded, group in groups.items():
        if len({record.label for record in group}) > 1:
            conflicting += len(group)
            continue
        duplicate += len(group) - 1
        # Of spellings that differ in case the first by id, not by place in the file.
        kept[folded] = min(group, key=lambda record: record.id)
    return kept, duplicate, conflicting


def _shares(counts: Sequence[int], n: int, most: Sequence[int]) -> list[int]:
    """n rows over classes of the given sizes: proportional, at least 1 each if n allows, at most `most`."""
    total = sum(counts)
    taken = [min(n * count // total, limit) for count, limit in zip(counts, most, strict=True)]
    if n >= len(counts):
        taken = [max(1, part) for part in taken]
    while sum(taken) != n:
        step = 1 if sum(taken) < n else -1
        open_ = [i for i in range(len(counts)) if (taken[i] < most[i] if step > 0 else taken[i] > 1)]
        if not open_:
            break
        # Furthest from its share first; the lower class index breaks ties.
        best = max(open_, key=lambda i: (step * (n * counts[i] - taken[i] * total), -i))
        taken[best] += step
    return taken


def _largest_k(pools: Sequence[Sequence[Example]]) -> int:
    """A k that always fits: as many rows of each class as the smallest can give to both sets."""
    return max(1, len(pools) * (min(len(pool) for pool in pools) // 2))


def _shuffled(examples: Iterable[Example], *salt: object) -> list[Example]:
    return sorted(examples, key=lambda example: _digest(*salt, example.id))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()


def _data_hash(task: Task, parts: dict[str, tuple[Example, ...]]) -> str:
    lines = [
        json.dumps([name, row.id, row.text, row.label, task.words[row.label]]) for name in parts for row in parts[name]
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
