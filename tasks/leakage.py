"""No held-out row among those that are learned from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.formatting import Example


def guard(rows: Sequence[Example], held_out: Iterable[Example]) -> tuple[list[Example], int]:
    """Rows without those that also stand in `held_out`, and how many were dropped.

    A row stands there too if its text is equal after folding of case and white space, or if its fields are, whatever
    the templates of the two tasks put around them and in whatever order (`Example.key`). A row with a picture stands
    there if its picture does, whatever is asked about it.
    """
    there: set[str] = set()
    for row in held_out:
        there.update(_marks(row))
    kept = [row for row in rows if there.isdisjoint(_marks(row))]
    return kept, len(rows) - len(kept)


def _marks(row: Example) -> tuple[str, ...]:
    marks = (f"text {row.content}", f"key {row.key}") if row.key else (f"text {row.content}",)
    return marks if row.picture is None else (*marks, f"picture {row.picture.sha256}")
