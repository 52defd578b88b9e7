"""Numbers in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from flows.reporting.shots import in_order, k_of


def spread(values: Sequence[float]) -> str:
    """As in `83.7 ± 1.2 (n=2)`."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation} (n={len(values)})"


def count(n: int, noun: str) -> str:
    """As in `3 targets`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def shots_told(rows: Sequence[Any]) -> str:
    """As in `k = 4, 16`, of rows of a summary."""
    return "k = " + ", ".join(str(k_of(k)) for k in in_order(row.shots for row in rows))


def seeds_told(rows: Sequence[Any]) -> str:
    """How many seeds have pairs, of rows of a summary."""
    most = max(len(row.gains) for row in rows)
    least = min(len(row.gains) for row in rows)
    return count(most, "seed") if most == least else f"{least} to {most} seeds"
