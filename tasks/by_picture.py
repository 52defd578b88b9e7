"""Rows with pictures, parted so that no picture stands in two parts, whatever is asked about it. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from infra.errors import InputError
from tasks.formatting import Example, Record
from tasks.leakage import guard
from tasks.order import digester, shares
from tasks.spec import Task


def unit_of(row: Example) -> str:
    """What a row may not be parted from: all rows of its picture, else of its question, else those of equal fields."""
    return row.picture.sha256 if row.picture else row.group or row.key


def parted(rows: Sequence[Example], wants: Mapping[str, Sequence[int]], strata: int) -> dict[str, list[Example]]:
    """Rows of each part, and under `train` those that are left.

    Pictures go by their sha256, so that tasks about the same pictures part them alike. A part may get some rows more
    than it wants (those of its last unit, see `unit_of`), and lacks a class where too few units have rows of it.

    Args:
        wants: part -> rows wanted of each class (of one in all, where `strata` is 1).
    """
    units: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        units[unit_of(row)].append(row)
    left = Counter(_class(row, strata) for row in rows)
    parts: dict[str, list[Example]] = {}
    names = sorted(units, key=digester("split"))
    for place, (part, wanted) in enumerate(wants.items()):
        stay = len(wants) - place  # rows of each class that are still needed after this part
        short, taken = dict(enumerate(wanted)), set[str]()
        for name in names:
            mine = Counter(_class(row, strata) for row in units[name])
            if all(short[label] <= 0 for label in mine):
                continue
            if any(left[label] - n < stay for label, n in mine.items()):
                continue
            taken.add(name)
            left -= mine
            for label, n in mine.items():
                short[label] -= n
            if all(n <= 0 for n in short.values()):
                break
        parts[part] = [row for name in names if name in taken for row in units[name]]
        names = [name for name in names if name not in taken]
    return parts | {"train": [row for name in names for row in units[name]]}


def carved(
    task: Task, pools: Sequence[Sequence[Example]], wants: Mapping[str, Sequence[int]]
) -> dict[str, list[Example]]:
    """`parted` for the splits of a task, whose rows stand in one pool a class.

    Raises:
        InputError: too few pictures have rows of a class.
    """
    parts = parted([row for pool in pools for row in pool], wants, len(pools))
    for part, rows in parts.items():
        there = {_class(row, len(pools)) for row in rows}
        for label in range(len(pools)):
            if label not in there:
                what = f" with rows of label {task.labels[label]!r}" if task.strata > 1 else ""
                raise InputError(
                    f"task {task.name}: too few pictures{what}: none is left for the {part} rows, since rows of one "
                    "picture stay together. Remedy: more pictures"
                )
    return parts


def halved(rows: Sequence[Example], n: int) -> tuple[tuple[Example, ...], list[Example]]:
    """About n of the rows, each class with its share, and the others; see `tasks.order.divided`."""
    classes = 1 + max(row.label for row in rows)
    counts = [sum(row.label == label for row in rows) for label in range(classes)]
    parts = parted(rows, {"kept": shares(counts, n, counts)}, classes)
    return tuple(parts["kept"]), parts["train"]


def apart(task: Task, parts: dict[str, list[Example]]) -> int:
    """Let no picture stand both in validation and in test, though splits of the hub may share some; how many rows go.

    Before training rows become validation (`large`) those of test pictures go; of given splits validation rows do.
    """
    if not task.pictured or task.rule == "small":
        return 0
    of, held = ("train", "validation") if task.rule == "large" else ("validation", "test")
    parts[of], gone = guard(parts[of], parts[held])
    return gone


def together(records: Sequence[Record], again: bool) -> Record:
    """One record of those that differ in nothing but their written answers, in an order that no file decides.

    Args:
        again: an answer counts as often as it was given.
    """
    ordered = sorted(records, key=lambda record: record.id)
    every = [answer for record in ordered for answer in record.answers]
    answers = tuple(every if again else dict.fromkeys(every))
    return replace(ordered[0], label=max(answers, key=answers.count), answers=answers)


def _class(row: Example, strata: int) -> int:
    return row.label if strata > 1 else 0
