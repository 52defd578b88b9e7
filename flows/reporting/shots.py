"""k, the number of shots, as it is shown and ordered."""

from __future__ import annotations

import math
from collections.abc import Iterable


def k_of(shots: int | None) -> int | str:
    """k as it is shown and written: a number, or `all` for all training rows."""
    return "all" if shots is None else shots


def in_order(found: Iterable[int | None]) -> list[int | None]:
    """Each k once, ascending; all training rows last."""
    return sorted(set(found), key=lambda shots: math.inf if shots is None else shots)
