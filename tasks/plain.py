"""Text made comparable: one form of each letter, one kind of white space. Pure."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

SHOWN = 40  # characters of a user's data that an error quotes at most


def composed(text: str) -> str:
    """The text in Unicode's form NFC: e and an accent become é, so that equal letters are equal text."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """Runs of white space (line breaks too) become one blank; none at the ends; letters composed (NFC)."""
    return composed(" ".join(text.split()))


def fold(text: str) -> str:
    """The text normalised and without case: rows that are equal then count as the same row."""
    return normalise(text).casefold()


def unwritable(text: str) -> bool:
    """Whether a text holds what no tokenizer takes: NUL, or half of a surrogate pair."""
    if "\x00" in text:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(value: object) -> str:
    """A value of the data as an error may quote it: escaped, and at most 40 characters."""
    text = str(value)
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names as an error may list them."""
    every = list(names)
    more = f", … {len(every):,} in all" if len(every) > most else ""
    return ", ".join(shown(name) for name in every[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be: equal but for case, width, blanks and what no one sees."""
    every = list(known)
    bare = {}
    for each in reversed(every):
        bare[_bare(each)] = each
    if (found := bare.get(_bare(name))) is not None:
        return found
    close = difflib.get_close_matches(_bare(name)[:200], list(bare), n=1, cutoff=0.7) if len(every) <= 1000 else []
    return bare[close[0]] if close else None


def _bare(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace()).split())
