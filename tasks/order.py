"""An order of rows that every machine and every Python finds again: by sha256 of their ids. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as _quoted

from tasks.formatting import Example


def digest(*parts: object) -> bytes:
    """sha256 of the parts as text."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()


def digester(*salt: object) -> Callable[[str], bytes]:
    """`digest(*salt, text)` as a function of the text, fast enough for a million rows."""
    start = hashlib.sha256(("[" + "".join(f"{json.dumps(str(part))}, " for part in salt)).encode())

    def found(text: str) -> bytes:
        copy = start.copy()
        copy.update(f"{_quoted(text)}]".encode())
        return copy.digest()

    return found


def shuffled(examples: Iterable[Example], *salt: object) -> list[Example]:
    """The examples in the order that `salt` gives them, whatever order they came in."""
    by = digester(*salt)
    return sorted(examples, key=lambda example: by(example.id))


def shares(counts: Sequence[int], n: int, most: Sequence[int]) -> list[int]:
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


class Tested(tuple[Example, ...]):
    """Test rows that are part of more: `whole`, rows of each label in all, by which samples of them are shared out.

    So a sample holds the rows that it would hold of all of them.
    """

    whole: Mapping[int, int]


def tested(rows: Iterable[Example], whole: Mapping[int, int]) -> Tested:
    """`rows` as a part of more, of which each label has as many as `whole` says."""
    found = Tested(rows)
    found.whole = whole
    return found


def sample(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """n of the rows, each class with its share, at most all; see `tasks.draws.subset`, which checks its arguments."""
    pools: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        pools[example.label].append(example)
    labels = sorted(pools)
    most = [len(pools[label]) for label in labels]
    counts = [examples.whole[label] for label in labels] if isinstance(examples, Tested) else most
    taken: list[Example] = []
    for label, part in zip(labels, shares(counts, min(n, len(examples)), most), strict=True):
        taken += shuffled(pools[label], "subset", seed)[:part]
    return shuffled(taken, "subset", seed)


def divided(examples: Sequence[Example], n: int) -> tuple[Tested, list[Example]]:
    """The rows that samples of up to n (seed 0) take, about n, and the others."""
    pools: dict[int, list[Example]] = defaultdict(list)
    for example in shuffled(examples, "subset", 0):
        pools[example.label].append(example)
    labels = sorted(pools)
    counts = [len(pools[label]) for label in labels]
    # Not the last sample alone: a class may have a row less in a larger one.
    parts = [shares(counts, size, counts) for size in range(1, n + 1)]
    most = dict(zip(labels, (max(part) for part in zip(*parts, strict=True)), strict=True))
    inside = {row.id for label, pool in pools.items() for row in pool[: most[label]]}
    part = tested((row for row in examples if row.id in inside), dict(zip(labels, counts, strict=True)))
    return part, [row for row in examples if row.id not in inside]
