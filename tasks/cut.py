"""What of a text may be lost where it is longer than its room, and how much room a free answer gets. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ANSWER_LEAST, ANSWER_MOST = 32, 512  # tokens kept for a free answer where the task does not say
ANSWER_SHARE = 0.95  # of the answers that the usual room holds whole
BYTES_PER_TOKEN = 3.5  # of UTF-8, on the small side: rather too much room than too little


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a text that may be lost.

    start, end: characters of the text, the end not included.
    side: from which side of that part tokens are lost first.
    """

    start: int
    end: int
    side: Literal["start", "end"] = "end"


def kept(spans: Sequence[tuple[int, int]], room: int, cut: Cut | None, causal: bool) -> list[int]:
    """Indices of the tokens that stay, in order: at most `room`.

    Tokens that lie within the cut's characters go first. Where that is not enough, or without a cut, the text loses
    its beginning (causal) or its end but for the last token, which ends it (encoder-decoder).

    Args:
        spans: characters (start, end) of each token in the text; equal where a token stands for none.
        room: tokens that may stay, at least 1.
    """
    left = list(range(len(spans)))
    over = len(spans) - room
    if over > 0 and cut is not None:
        inside = [i for i, (a, b) in enumerate(spans) if cut.start <= a < b <= cut.end]
        gone = set(inside[:over] if cut.side == "start" else inside[-over:])
        left = [i for i in left if i not in gone]
    if len(left) > room:
        left = left[len(left) - room :] if causal else [*left[: room - 1], left[-1]]
    return left


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
