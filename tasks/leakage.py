"""No held-out row among those that are learned from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.formatting import Example
from tasks.plain import fold


def guard(rows: Sequence[Example], held_out: Iterable[Example]) -> tuple[list[Example], int]:
    """Rows without those that also stand in `held_out`, and how many were dropped.

    A row stands there too if its text is equal after folding of case and white space, or if its fields are, whatever
    the templates of the two tasks put around them and in whatever order (`Example.key`).
    """
    texts: set[str] = set()
    keys: set[str] = set()
    for row in held_out:
        texts.add(fold(row.text))
        if row.key:
            keys.add(row.key)
    kept = [row for row in rows if (not row.key or row.key not in keys) and fold(row.text) not in texts]
    return kept, len(rows) - len(kept)
