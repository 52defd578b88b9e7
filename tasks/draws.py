"""Draws of rows, decided by sha256 so that every machine and every Python draws the same: shots, and samples.

The shots of a task are drawn from its training rows; a seed names a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infra.errors import InputError
from tasks.formatting import Example
from tasks.order import digest, divided, sample, shuffled
from tasks.splits import Splits

LOOKED_AT = 100  # rows of each validation split that this project's defaults were tuned on (CONTRIBUTING.md)
KEPT = 8  # orders of a task's rows that are kept: draws of several k ask for the same


class Draw(NamedTuple):
    """The shots of a seed, and as many rows by which the step is chosen."""

    shots: tuple[Example, ...]
    validation: tuple[Example, ...]


def few_shot(splits: Splits, k: int, seed: int, strata: int, per_class: bool = False, checks: bool = True) -> Draw:
    """k shots and k validation rows, disjoint, both from the training pool: (shots, validation).

    Classes are as even as k allows (they differ by at most one row; the seed chooses which get the extra one, other
    classes in the validation than in the shots where it can). With k < strata some classes go without. Shots of the
    same seed are nested: those of a larger k include those of a smaller. Rows of equal text are drawn once.

    Args:
        strata: classes to balance (Task.strata); 1: none, all rows are one pool.
        per_class: k shots and k validation rows of each class.
        checks: False where the whole validation split takes the place of the k validation rows: the same shots without
            them, and a class needs rows for its shots alone.

    Raises InputError for k < 1, a class without rows, and a class with too few for its part of both.
    """
    counts = check_draw(splits, k, strata, per_class, checks)
    pools = _pools(splits, seed, strata)
    order = sorted(range(strata), key=lambda label: digest("extra", seed, label))
    each, extra = divmod(k * strata if per_class else k, strata)
    if any(sum(_parts(rank, each, extra, strata)) > counts[label] for rank, label in enumerate(order)):
        order.sort(key=lambda label: -counts[label])  # the rarest class is the last to give both a shot and a check
    shots: list[Example] = []
    validation: list[Example] = []
    for rank, label in enumerate(order):
        a, b = _parts(rank, each, extra, strata)
        pool = pools[label]
        shots += pool[:a]
        validation += pool[len(pool) - b :] if checks else []
    return Draw(tuple(shuffled(shots, "shots", seed)), tuple(shuffled(validation, "shots", seed)))


def check_draw(splits: Splits, k: int, strata: int, per_class: bool = False, checks: bool = True) -> tuple[int, ...]:
    """Whether k shots and (`checks`) k validation rows can be drawn, which no seed decides; each class's distinct rows.

    Cheap: rows are counted once. Raises InputError as `few_shot` does.
    """
    if k < 1:
        raise InputError(f"shots must be at least 1, not {k}")
    counts = splits.counts(strata)
    said = f"k={k} shots" + (" of each class" if per_class else "")
    empty = [label for label, count in enumerate(counts) if not count]
    if empty:
        raise InputError(f"{_name(splits, empty[0])} has no row in the training pool; give each label some rows")
    total = k * strata if per_class else k
    both, said = 1 + checks, said + (" and as many validation rows" if checks else "")
    if both * total > sum(counts):
        raise InputError(
            f"{said} need {both * total} training rows, but there are {sum(counts)}; "
            f"{_remedy(splits, counts, k, per_class, checks)}"
        )
    short = _short(counts, total, checks)
    if short is not None:
        label, needed = short
        raise InputError(
            f"{said}, balanced over {strata} classes, need {needed} "
            f"row{'s' * (needed > 1)} of {_name(splits, label)}, but the training pool has {counts[label]}; "
            f"{_remedy(splits, counts, k, per_class, checks)}"
        )
    return counts


def subset(examples: Sequence[Example], n: int, seed: int) -> tuple[Example, ...]:
    """n random rows (all, if there are no more), each class with its share and at least one row where n allows.

    Depends on the rows, n and seed only, not on their order. Raises InputError for n < 1 or no rows.
    """
    if n < 1 or not examples:
        raise InputError(f"cannot take {n} of {len(examples)} rows; take at least 1 of at least 1")
    return tuple(sample(examples, n, seed))


def rows_to_test(splits: Splits, n: int, reserve: bool) -> tuple[Example, ...]:
    """The n rows that trials are tested on (all, if there are no more; none for 0), the same for every draw.

    Args:
        reserve: of `reserve_of` the task, in place of the test split; first those that judge champions.

    Raises:
        InputError: no rows.
    """
    if not n:
        return ()
    if not reserve:
        return subset(splits.test, n, 0)
    judge, others = splits.judge, _not_looked_at(splits)
    if n <= len(judge) or not others:
        return subset(judge, n, 0)
    return (*judge, *subset(others, n - len(judge), 0))


def reserve_of(splits: Splits) -> tuple[Example, ...]:
    """Rows that nothing has learned from or was chosen by: those that judge champions, then those of the validation
    split beyond the sample that the defaults of this project were tuned on.
    """
    return (*splits.judge, *_not_looked_at(splits))


def _not_looked_at(splits: Splits) -> list[Example]:
    return divided(splits.validation, LOOKED_AT)[1]


def _pools(splits: Splits, seed: int, strata: int) -> list[list[Example]]:
    """Distinct training rows of each class, in the order that `seed` draws them; kept for the next k."""
    kept = splits.drawn.get((seed, strata))
    if kept is None:
        pools: list[list[Example]] = [[] for _ in range(strata)]
        for example in splits.distinct():
            pools[example.label if strata > 1 else 0].append(example)
        while len(splits.drawn) >= KEPT:
            del splits.drawn[next(iter(splits.drawn))]
        kept = splits.drawn[seed, strata] = [shuffled(pool, "shots", seed) for pool in pools]
    return kept


def _parts(rank: int, each: int, extra: int, strata: int) -> tuple[int, int]:
    """Shots and validation rows of the class that stands at `rank` in the order of the extra rows."""
    return each + (rank < extra), each + ((rank - extra) % strata < extra)


def _short(counts: Sequence[int], total: int, checks: bool) -> tuple[int, int] | None:
    """A class with too few rows for its part of `total` shots (and as many others), and that part; None: all have.

    If any order of the extra rows fits, the one that gives them to the largest classes does.
    """
    strata = len(counts)
    each, extra = divmod(total, strata)
    for rank, label in enumerate(sorted(range(strata), key=lambda label: -counts[label])):
        needed = sum(_parts(rank, each, extra, strata)[: 1 + checks])
        if needed > counts[label]:
            return label, needed
    return None


def _remedy(splits: Splits, counts: Sequence[int], k: int, per_class: bool, checks: bool) -> str:
    """The largest k that can be drawn, or what to do where none can."""
    strata = len(counts)
    for fewer in range(min(k - 1, sum(counts) // (1 + checks)), 0, -1):
        total = fewer * strata if per_class else fewer
        if (1 + checks) * total <= sum(counts) and _short(counts, total, checks) is None:
            return f"use k <= {fewer}"
    rarest = min(range(strata), key=lambda label: counts[label])
    if strata == 1 or not per_class or not checks:
        return "no k fits. Remedy: more rows"
    return (
        f"no k fits, since one shot and one validation row of each label take two. Remedy: more rows of "
        f"{_name(splits, rarest)}, or take it out of the verbalizer"
    )


def _name(splits: Splits, label: int) -> str:
    return f"label {splits.labels[label]!r}" if label < len(splits.labels) else f"class {label}"
