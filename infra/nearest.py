"""What to say after a wrong name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str], *, list_all: bool = True) -> str:
    """The nearest right name, and all of them: "; did you mean shots? Known: shots, seeds"."""
    names = list(known)
    if not names:
        return "; there is none" if list_all else ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    if not list_all:
        return hint
    return f"{hint} Known: {', '.join(names)}" if hint else f"; known: {', '.join(names)}"
