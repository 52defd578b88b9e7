"""Cleaning and splits, decided by sha256 so that every machine and every Python finds the same rows.

Rule `hash`, after cleaning, with n rows left: test n/5, at most 1000, at least 300 where n >= 900; validation n/10, at
most 500; the rest is the training pool. Each class keeps its share and has at least one row in each split.
Rows go by the sha256 of their folded text: the order of the file does not matter. Of more than 300 test rows the upper
half, by the order in which samples are drawn, judges champions (`Splits.judge`); reports never test on it. Of a user's
own task of fewer, a tenth of all rows (12 at least, where there are 70) leaves the training pool for that.

Rows with pictures are parted by picture, whatever is asked about it (`by_picture.py`): none stands in two splits, nor
both in training and among the rows that judge.

Rules of the hub's data sets, as the DePT authors split (Shi & Lipani, 2024, appendix on data sets), but by sha256 in
place of a seed: `small`: half of the validation split is validation, the rest test; `large`: 1,000 training rows (a
fifth, where there are fewer than 5,000) are validation and the validation split is test; `given`: as they are. Rows of
one question, and equal rows, stay together; training rows that stand among the others are dropped.

A user's own files for validation and test are taken as they are, cleaned; what has no file is taken out of the training
rows by the rule `hash`. Training rows that stand in another file, and validation rows that stand in the test file, are
dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.errors import InputError
from tasks.by_picture import apart, carved, halved, parted, together, unit_of
from tasks.cut import ANSWER_LEAST, usual_answer_length
from tasks.data_hash import data_hash
from tasks.formatting import Example, Record, key_of, to_example
from tasks.leakage import guard
from tasks.order import digester, divided, shares, shuffled, tested
from tasks.plain import fold
from tasks.sources.converters import one_per_answer
from tasks.spec import FileSource, Task

TEST_MOST, TEST_LEAST, VALIDATION_MOST = 1000, 300, 500
LARGE_VALIDATION = 1000
CONFLICTS = (
    ". Rows of one text with different answers conflict. Remedy: name what tells them apart, by more source.columns or "
    "source.picture"
)
JUDGES_LEAST, JUDGED_LEAST = 12, 70  # rows that judge a user's own task; usable rows from which on there are any


@dataclass(frozen=True)
class Splits:
    """Disjoint rows of a task. `train` is the pool that shots are drawn from.

    judge: rows by which champions are compared, and that no report tests on; none where the test rows are given or few.
    data_hash: sha256 (hex) over id, text, class index and word (or what else is answered) of each row of each split
    (`judge` counted as test), and over what else decides numbers, so that another row, template, verbalizer, metric,
    cut or split gives another hash.
    dropped: rows left out, by cause (neutral, duplicate, conflicting; given splits: unlabelled, leaked).
    labels: names of the classes, for messages.
    answer_length: tokens that hold most free answers of the training rows (qa, generation).
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    data_hash: str
    dropped: dict[str, int]
    judge: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    answer_length: int = ANSWER_LEAST
    drawn: dict[tuple[int, int], list[list[Example]]] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )
    _found: dict[int, Any] = field(init=False, default_factory=dict, compare=False, repr=False)

    def distinct(self) -> Sequence[Example]:
        """Training rows, of those with equal text one; found once."""
        if 0 not in self._found:
            self._found[0] = _distinct(self.train)
        found: Sequence[Example] = self._found[0]
        return found

    def counts(self, strata: int) -> tuple[int, ...]:
        """Distinct training rows of each class; counted once."""
        if strata not in self._found:
            found = [0] * strata
            for example in self.distinct():
                found[example.label if strata > 1 else 0] += 1
            self._found[strata] = tuple(found)
        counts: tuple[int, ...] = self._found[strata]
        return counts

    def parts(self) -> dict[str, tuple[Example, ...]]:
        """Each split's rows by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test, "judge": self.judge}


def make_splits(task: Task, records: Iterable[Record], neutral: int = 0) -> Splits:
    """Splits of `records` by the rule `hash`. Raises InputError for a label without rows or fewer than three of one."""
    kept, duplicate, conflicting = _clean(task, records)
    said = f"({duplicate} duplicate and {conflicting} conflicting rows"
    hint = CONFLICTS if conflicting > len(kept) and not task.pictured else ""
    parts = _carved(task, kept, ("test", "validation"), said, hint)
    if isinstance(task.source, FileSource):
        _take_judges(task, parts, len(kept))
    return made(task, parts, {"neutral": neutral, "duplicate": duplicate, "conflicting": conflicting}, judge=True)


def make_file_splits(task: Task, files: Mapping[str, Sequence[Record]], unlabelled: int = 0) -> Splits:
    """Splits of a user's files for training, validation and test. Raises InputError for a split without rows, and a
    label without rows that can be learned."""
    if set(files) == {"train"}:
        found = make_splits(task, files["train"])
        return replace(found, dropped=found.dropped | {"unlabelled": unlabelled}) if unlabelled else found
    dropped = {"unlabelled": unlabelled, "duplicate": 0, "conflicting": 0, "leaked": 0}
    cleaned: dict[str, dict[str, Record]] = {}
    held: set[str] = set()
    for role in ("test", "validation", "train"):  # a row that stands in several counts where it is held out
        if role not in files:
            continue
        kept, duplicate, conflicting = _clean(task, files[role])
        marks = {folded: _marks(record) for folded, record in kept.items()}
        fresh = {folded: record for folded, record in kept.items() if held.isdisjoint(marks[folded])}
        held.update(mark for folded in fresh for mark in marks[folded])
        dropped["duplicate"] += duplicate
        dropped["conflicting"] += conflicting
        dropped["leaked"] += len(kept) - len(fresh)
        if not fresh:
            raise InputError(f"task {task.name}: no {role} row is left that stands in no other file; give other rows")
        cleaned[role] = fresh
    absent = tuple(role for role in ("test", "validation") if role not in files)
    said = f"({dropped['leaked']} rows that stand in another file and {dropped['duplicate']} duplicate rows"
    parts = _carved(task, cleaned.pop("train"), absent, said)
    for role, fresh in cleaned.items():
        parts[role] = [to_example(task, fresh[folded]) for folded in sorted(fresh)]
    return made(task, parts, dropped, judge="test" in absent)


def make_hub_splits(task: Task, rows: Mapping[str, Sequence[Record]], unlabelled: int) -> Splits:
    """Splits of the hub's rows (by role) by the task's rule. Raises InputError as `load_splits` does."""
    if task.rule == "hash":
        found = make_splits(task, [record for part in rows.values() for record in part])
        return replace(found, dropped=found.dropped | {"unlabelled": unlabelled})
    parts = {role: [to_example(task, record) for record in part] for role, part in rows.items()}
    before = apart(task, parts)
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
    return made(task, parts, {"unlabelled": unlabelled, "leaked": leaked + before})


def made(
    task: Task,
    parts: Mapping[str, list[Example]],
    dropped: dict[str, int],
    judge: bool = False,
    whole: Mapping[int, int] | None = None,
) -> Splits:
    """The splits of a task from the rows of each part: mixed, hashed and, where `judge`, with rows to judge by.

    Args:
        parts: may hold judge rows, which stay what they are.
        whole: rows of each label that samples of the test rows are shared out by, where that is not the test rows.
    """
    train, validation, test = (tuple(shuffled(parts[name], "mix", name)) for name in ("train", "validation", "test"))
    judging = parts.get("judge", [])
    found = data_hash(task, {"train": train, "validation": validation, "test": (*test, *judging)})
    if judge and len(test) > TEST_LEAST:
        apart = halved if task.pictured else divided
        test, others = apart(test, max(TEST_LEAST, -(-len(test) // 2)))
        judging = [*others, *judging]
    elif whole is not None:
        test = tested(test, whole)
    usual = ANSWER_LEAST if task.scored else usual_answer_length(row.target for row in train)
    labels = task.labels if task.kind == "classification" else ()
    mixed = tuple(shuffled(judging, "mix", "test"))
    return Splits(train, validation, test, found, dropped, mixed, labels, usual)


def _marks(record: Record) -> list[str]:
    """By what a row is known in another file: its fields, and its picture whatever is asked about it."""
    key = key_of(record.fields, record.picture)
    return [key] if record.picture is None else [key, record.picture.sha256]


def _take_judges(task: Task, parts: dict[str, list[Example]], total: int) -> None:
    """Of a user's own task, whose test rows are few: the last training rows, each class with its share, become judges.

    They are a tenth of all rows, at least 12; none where there are fewer than 70, or so many that test rows judge.
    """
    half = len(parts["test"]) - max(TEST_LEAST, -(-len(parts["test"]) // 2))
    wanted = max(JUDGES_LEAST, total // 10) - max(0, half)
    pools: dict[int, list[Example]] = defaultdict(list)
    for row in parts["train"]:
        pools[row.label].append(row)
    large = {label: pool for label, pool in pools.items() if len(pool) >= 4}  # the others keep what they have
    if total < JUDGED_LEAST or wanted < 1 or not large:
        return
    sizes = [len(pool) for pool in large.values()]
    taken = shares(sizes, min(wanted, sum(size // 2 for size in sizes)), [size // 2 for size in sizes])
    if task.pictured:
        wants = dict(zip(large, taken, strict=True))
        classes = range(max(pools) + 1)
        parts |= parted(parts["train"], {"judge": [wants.get(label, 0) for label in classes]}, len(classes))
        return
    parts["judge"] = [row for pool, n in zip(large.values(), taken, strict=True) for row in pool[len(pool) - n :]]
    gone = {row.id for row in parts["judge"]}
    parts["train"] = [row for row in parts["train"] if row.id not in gone]


def _carved(
    task: Task, kept: Mapping[str, Record], roles: Sequence[str], dropped: str, hint: str = ""
) -> dict[str, list[Example]]:
    """The cleaned rows with those of `roles` (test, validation) taken out of them, each class with its share.

    Args:
        dropped, hint: for errors, what was left out and what may be done about it.
    """
    pools: list[list[Example]] = [[] for _ in range(task.strata)]
    for folded in sorted(kept, key=digester("split")):
        example = to_example(task, kept[folded])
        pools[example.label if task.strata > 1 else 0].append(example)
    least = 1 + len(roles)
    for stratum, pool in enumerate(pools):
        if len(pool) < least:
            what = f"label {task.labels[stratum]!r} has" if task.strata > 1 else "there are"
            needs = {1: "one for training", 2: f"two, one each for training and {roles[0] if roles else ''}"}.get(
                least, "three, one each for training, validation and test"
            )
            raise InputError(
                f"task {task.name}: {what} {len(pool) or 'no'} usable rows; it needs at least {needs} {dropped} "
                f"were dropped){hint}"
            )
    counts = [len(pool) for pool in pools]
    total, classes = sum(counts), len(counts)
    sizes = {
        "test": max(min(TEST_MOST, total // 5), TEST_LEAST if total >= 3 * TEST_LEAST else 0, classes),
        "validation": max(min(VALIDATION_MOST, total // 10), classes),
    }
    if task.pictured and roles:
        return carved(task, pools, {role: shares(counts, sizes[role], counts) for role in roles})
    parts: dict[str, list[Example]] = {role: [] for role in roles}
    taken = [0] * classes
    for place, role in enumerate(roles):
        left = [count - gone for count, gone in zip(counts, taken, strict=True)]
        stay = len(roles) - place  # a row for training, and one for each part that is still to come
        part = shares(left, sizes[role], [count - stay for count in left])
        for label, pool in enumerate(pools):
            parts[role] += pool[taken[label] : taken[label] + part[label]]
            taken[label] += part[label]
    parts["train"] = [row for label, pool in enumerate(pools) for row in pool[taken[label] :]]
    return parts


def _clean(task: Task, records: Iterable[Record]) -> tuple[dict[str, Record], int, int]:
    """Folded text -> record, and the numbers of duplicate and of conflicting rows left out.

    Several written answers about one picture contradict none: tables of captions and of people's answers have a row for
    each, and they become one.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        said = [fold(value) for _, value in sorted(record.fields.items())]
        groups["\x1f".join(said if record.picture is None else [*said, record.picture.sha256])].append(record)
    kept, duplicate, conflicting = {}, 0, 0
    for folded, group in groups.items():
        if task.pictured and not task.scored and len(group) > 1:
            kept[folded] = together(group, "vqa_accuracy" in task.metrics)
            continue
        if len({(record.label, record.answers) for record in group}) > 1:
            conflicting += len(group)
            continue
        duplicate += len(group) - 1
        # Of spellings that differ in case the first by id, not by place in the file.
        kept[folded] = min(group, key=lambda record: record.id)
    return kept, duplicate, conflicting


def _distinct(examples: Sequence[Example]) -> Sequence[Example]:
    """Of rows with equal text one: the first by id, not by place."""
    chosen: dict[str, Example] = {}
    for example in examples:
        key = example.key or example.content
        if (other := chosen.get(key)) is None or example.id < other.id:
            chosen[key] = example
    return examples if len(chosen) == len(examples) else list(chosen.values())


def _carve(examples: Sequence[Example], n: int) -> tuple[list[Example], list[Example]]:
    """n rows (at least one) and the others. Rows of one question, of one picture, or of equal text, stay together; n is
    then neared."""
    units: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        units[unit_of(example)].append(example)
    taken: list[Example] = []
    left: list[Example] = []
    for name in sorted(units, key=digester("carve")):
        short = n - len(taken)
        nearer = short > 0 and abs(short - len(units[name])) <= short
        (taken if nearer or not taken else left).extend(units[name])
    return taken, left
