"""Cleaning, splits and draws, all decided by sha256 so that every machine and every Python draws the same rows.

Rule `hash`, after cleaning, with n rows left: test n/5, at most 1000, at least 300 where n >= 900; validation n/10, at
most 500; the rest is the training pool. Each class keeps its share and has at least one row in each split.
Rows go by the sha256 of their folded text: the order of the file does not matter.

Rules of the hub's data sets, as the DePT authors split (Shi & Lipani, 2024, appendix on data sets), but by sha256 in
place of a seed: `small`: half of the validation split is validation, the rest test; `large`: 1,000 training rows (a
fifth, where there are fewer than 5,000) are validation and the validation split is test; `given`: as they are. Rows of
one question, and equal rows, stay together; training rows that stand among the others are dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from infra.errors import InputError
from tasks.formatting import Example, Record, fold, to_example
from tasks.leakage import guard
from tasks.sources.converters import one_per_answer
from tasks.sources.hub import HubRows, read_hub, stamp
from tasks.sources.read import locate, read_source
from tasks.spec import DEFAULT_METRICS, HubSource, Task

TEST_MOST, TEST_LEAST, VALIDATION_MOST = 1000, 300, 500
LARGE_VALIDATION = 1000


@dataclass(frozen=True)
class Splits:
    """Disjoint rows of a task. `train` is the pool that shots are drawn from.

    data_hash: sha256 (hex) over id, text, class index and word (or what else is answered) of each row of each split,
    and over the metrics, so that another row, template, verbalizer, metric or split gives another hash.
    dropped: rows left out, by cause (neutral, duplicate, conflicting; hub: unlabelled, leaked).
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    data_hash: str
    dropped: dict[str, int]
    _drawn: dict[tuple[int, int], list[list[Example]]] = field(default_factory=dict, compare=False, repr=False)

    def pools(self, seed: int, strata: int) -> list[list[Example]]:
        """Distinct training rows of each class, in the order that `seed` draws them; kept for the next k."""
        if (seed, strata) not in self._drawn:
            pools: list[list[Example]] = [[] for _ in range(strata)]
            for example in _distinct(self.train):
                pools[example.label if strata > 1 else 0].append(example)
            self._drawn[seed, strata] = [_shuffled(pool, "shots", seed) for pool in pools]
        return self._drawn[seed, strata]


def load_splits(task: Task) -> Splits:
    """Rows of `task`, cleaned and split; cached until the task or its file changes.

    Raises InputError for bad rows (see sources.read_source, hub.read_hub), a label without rows, or fewer than three
    rows of one.
    """
    if isinstance(task.source, HubSource):
        return _load(task, stamp(task))
    stat = locate(task.source).stat()
    return _load(task, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _load(task: Task, stamped: tuple[Any, ...]) -> Splits:
    if isinstance(task.source, HubSource):
        return make_hub_splits(task, read_hub(task))
    records, neutral = read_source(task)
    return make_splits(task, records, neutral)


def make_splits(task: Task, records: Iterable[Record], neutral: int = 0) -> Splits:
    """Splits of `records` by the rule `hash`. Raises InputError as `load_splits` does."""
    kept, duplicate, conflicting = _clean(records)
    pools: list[list[Example]] = [[] for _ in range(task.strata)]
    for folded in sorted(kept, key=_digester("split")):
        example = to_example(task, kept[folded])
        pools[example.label if task.strata > 1 else 0].append(example)
    for stratum, pool in enumerate(pools):
        if len(pool) < 3:
            what = f"label {task.labels[stratum]!r} has" if task.strata > 1 else "there are"
            raise InputError(
                f"task {task.name}: {what} {len(pool) or 'no'} usable rows; it needs at least three, one "
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
    return _mixed(task, parts, {"neutral": neutral, "duplicate": duplicate, "conflicting": conflicting})


def make_hub_splits(task: Task, rows: HubRows) -> Splits:
    """Splits of the hub's rows by the task's rule. Raises InputError as `load_splits` does."""
    if task.rule == "hash":
        made = make_splits(task, [record for part in rows.parts.values() for record in part])
        return Splits(
            made.train, made.validation, made.test, made.data_hash, made.dropped | {"unlabelled": rows.unlabelled}
        )
    parts = {role: [to_example(task, record) for record in part] for role, part in rows.parts.items()}
    if task.rule == "small":
        parts["validation"], parts["test"] = _carve(parts["validation"], len(parts["validation"]) // 2)
    elif task.rule == "large":
        parts["test"] = parts["validation"]
        parts["validation"], parts["train"] = _carve(parts["train"], min(LARGE_VALIDATION, len(parts["train"]) // 5))
    parts["train"], leaked = guard(parts["train"], parts["validation"] + parts["test"])
    if task.convert == "record":
        parts["train"] = list(one_per_answer(parts["train"]))
    for role in ("train", "validation", "test"):
        if not parts[role]:
            raise InputError(f"task {task.name}: rule {task.rule} leaves no {role} rows; it needs more rows")
    there = {example.label for example in parts["train"]}
    for index, label in enumerate(task.labels if task.strata > 1 else ()):
        if index not in there:
            raise InputError(f"task {task.name}: label {label!r} has no training row; take it out of the verbalizer")
    return _mixed(task, parts, {"unlabelled": rows.unlabelled, "leaked": leaked})


def few_shot(
    splits: Splits, k: int, seed: int, strata: int, per_class: bool = False
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """k shots and k validation rows, disjoint, both from the training pool: (shots, validation).

    Classes are as even as k allows (they differ by at most one row; the seed chooses which get the extra one, other
    classes in the validation than in the shots where it can). With k < strata some classes go without. Shots of the
    same seed are nested: those of a larger k include those of a smaller. Rows of equal text are drawn once.

    Args:
        strata: classes to balance (Task.strata); 1: none, all rows are one pool.
        per_class: k shots and k validation rows of each class.

    Raises InputError for k < 1, a class without rows, and a class with too few for its part of both.
    """
    if k < 1:
        raise InputError(f"shots must be at least 1, not {k}")
    pools = splits.pools(seed, strata)
    there = sum(map(len, pools))
    empty = [label for label, pool in enumerate(pools) if not pool]
    if empty:
        raise InputError(f"class {empty[0]} has no row in the training pool; give each label some rows")
    total = k * strata if per_class else k
    most = _largest_k(pools) // (strata if per_class else 1) or 1
    said = f"k={k} shots" + (" of each class" if per_class else "")
    if 2 * total > there:
        raise InputError(
            f"{said} and as many validation rows need {2 * total} training rows, but there are {there}; use k <= {most}"
        )
    order = sorted(range(strata), key=lambda label: _digest("extra", seed, label))
    each, extra = divmod(total, strata)
    if any(sum(_parts(rank, each, extra, strata)) > len(pools[label]) for rank, label in enumerate(order)):
        order.sort(key=lambda label: -len(pools[label]))  # the rarest class is the last to give both a shot and a check
    shots: list[Example] = []
    validation: list[Example] = []
    for rank, label in enumerate(order):
        a, b = _parts(rank, each, extra, strata)
        if a + b > len(pools[label]):
            raise InputError(
                f"{said} and as many validation rows, balanced over {strata} classes, need {a + b} rows of "
                f"class {label}, but the training pool has {len(pools[label])}; use k <= {most}"
            )
        pool = pools[label]
        shots += pool[:a]
        validation += pool[len(pool) - b :]
    return tuple(_shuffled(shots, "shots", seed)), tuple(_shuffled(validation, "shots", seed))


def _parts(rank: int, each: int, extra: int, strata: int) -> tuple[int, int]:
    """Shots and validation rows of the class that stands at `rank` in the order of the extra rows."""
    return each + (rank < extra), each + ((rank - extra) % strata < extra)


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
        groups["\x1f".join(fold(value) for _, value in sorted(record.fields.items()))].append(record)
    kept, duplicate, conflicting = {}, 0, 0
    for folded, group in groups.items():
        if len({(record.label, record.answers) for record in group}) > 1:
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


def _distinct(examples: Sequence[Example]) -> Sequence[Example]:
    """Of rows with equal text one: the first by id, not by place."""
    chosen: dict[str, Example] = {}
    for example in examples:
        key = example.key or fold(example.text)
        if (other := chosen.get(key)) is None or example.id < other.id:
            chosen[key] = example
    return examples if len(chosen) == len(examples) else list(chosen.values())


def _carve(examples: Sequence[Example], n: int) -> tuple[list[Example], list[Example]]:
    """n rows (at least one) and the others. Rows of one question, or of equal text, stay together; n is then neared."""
    units: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        units[example.group or example.key].append(example)
    taken: list[Example] = []
    left: list[Example] = []
    for name in sorted(units, key=_digester("carve")):
        short = n - len(taken)
        nearer = short > 0 and abs(short - len(units[name])) <= short
        (taken if nearer or not taken else left).extend(units[name])
    return taken, left


def _mixed(task: Task, parts: dict[str, list[Example]], dropped: dict[str, int]) -> Splits:
    mixed = {name: tuple(_shuffled(parts[name], "mix", name)) for name in ("train", "validation", "test")}
    return Splits(mixed["train"], mixed["validation"], mixed["test"], _data_hash(task, mixed), dropped)


def _shuffled(examples: Iterable[Example], *salt: object) -> list[Example]:
    digest = _digester(*salt)
    return sorted(examples, key=lambda example: digest(example.id))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()


def _digester(*salt: object) -> Callable[[str], bytes]:
    """`_digest(*salt, text)` as a function of the text, fast enough for a million rows."""
    start = hashlib.sha256(("[" + "".join(f"{json.dumps(str(part))}, " for part in salt)).encode())

    def digest(text: str) -> bytes:
        copy = start.copy()
        copy.update(f"{json.dumps(text)}]".encode())
        return copy.digest()

    return digest


def _data_hash(task: Task, parts: dict[str, tuple[Example, ...]]) -> str:
    lines, words = [], task.words
    for name, rows in parts.items():
        for row in rows:
            plain = task.kind == "classification"
            said: list[Any] = [words[row.label]] if plain else [row.target, row.answers, row.value]
            lines.append(json.dumps([name, row.id, row.text, row.label, *said, *([row.group] if row.group else [])]))
    # How answers are judged decides numbers too: what it adds to the rows, so that trials done stay done.
    metrics = task.metrics if task.metrics != DEFAULT_METRICS[task.kind] else ()
    unseen = set(words) - {row.target for rows in parts.values() for row in rows}
    if metrics or unseen:
        lines.append(json.dumps(["judged by", *metrics, *sorted(unseen)]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
