"""What of a text may be lost where it is longer than its room, and how much room a free answer gets. Pure."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence

ANSWER_LEAST, ANSWER_MOST = 32, 512  # tokens kept for a free answer where the task does not say
ANSWER_SHARE = 0.95  # of the answers that the usual room holds whole
BYTES_PER_TOKEN = 3.5  # of UTF-8, on the small side: rather too much room than too little


def kept(spans: Sequence[tuple[int, int]], room: int, part: tuple[int, int] | None, causal: bool) -> list[int]:
    """Indices of the tokens that stay, in order: at most `room`.

    The last tokens that lie within `part` go first. Where that is not enough, or without a part, the text loses its
    beginning (causal), but for the tokens that stand for no characters there and begin it, or its end but for the last
    token, which ends it (encoder-decoder).

    Args:
        spans: characters (start, end) of each token in the text; equal where a token stands for none.
        room: tokens that may stay, at least 1.
        part: characters (start, end) of what may be lost.
    """
    left = list(range(len(spans)))
    over = len(spans) - room
    if over > 0 and part is not None:
        gone = set([i for i, (a, b) in enumerate(spans) if part[0] <= a < b <= part[1]][-over:])
        left = [i for i in left if i not in gone]
    if len(left) > room:
        begin = next((i for i, (a, b) in enumerate(spans) if a < b), 0)
        begin = begin if begin < room else 0
        left = [*left[:begin], *left[len(left) - room + begin :]] if causal else [*left[: room - 1], left[-1]]
    return left


class Places:
    """Where the fields of a template stand in a text made by it.

    A field's own line breaks are blanks, so the template's mark its ends; where fields are parted by less, the first
    reading counts.
    """

    def __init__(self, template: str) -> None:
        pattern, self.names = "", list[str]()
        for literal, name, _, _ in string.Formatter().parse(template):
            pattern += r"\s+".join(re.escape(part) for part in re.split(r"\s+", literal))
            if name is not None:
                self.names.append(name)
                pattern += "(.*?)"
        # A text may have lost the blanks at its end, and been normalised by who asks for an answer.
        self._pattern = re.compile(pattern.removesuffix(r"\s+") + r"\s*", re.DOTALL)

    def of(self, text: str) -> dict[str, tuple[int, int]]:
        """Field -> its characters in the text, of its first place; nothing for a text of another template."""
        match = self._pattern.fullmatch(text)
        found: dict[str, tuple[int, int]] = {}
        for index, name in enumerate(self.names if match else (), start=1):
            assert match is not None
            found.setdefault(name, match.span(index))
        return found


def usual_answer_length(answers: Iterable[str]) -> int:
    """Tokens that hold most of the answers whole, estimated from their letters; a multiple of 8, from 32 to 512."""
    sizes = sorted(len(answer.encode()) for answer in answers)
    if not sizes:
        return ANSWER_LEAST
    size = sizes[min(len(sizes) - 1, math.ceil(ANSWER_SHARE * len(sizes)) - 1)]
    tokens = 8 * math.ceil((size / BYTES_PER_TOKEN + 1) / 8)  # and the token that ends the answer
    return max(ANSWER_LEAST, min(tokens, ANSWER_MOST))


def answer_room(asked: int | None, usual: int, s: int) -> int:
    """Tokens kept for a free answer within an adapter's s.

    Args:
        asked: what the task's block says (`Task.answer_length`), which counts.
        usual: what its data speak for (`Splits.answer_length`); at most half of s.
    """
    return asked if asked is not None else max(1, min(usual, s // 2))
