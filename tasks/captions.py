"""Captions against those of several people: CIDEr-D and BLEU-4. Pure.

Sources: Vedantam, Zitnick & Parikh (2015), CIDEr (https://arxiv.org/abs/1411.5726), sections 3 and 5 (CIDEr-D);
Papineni et al. (2002), BLEU (https://aclanthology.org/P02-1040), of whole corpora, by the reference of nearest length.
Words are told apart as in COCO's evaluation, which runs Stanford's PTBTokenizer (Java) and drops punctuation; ours is a
short rule for the same, so that numbers of texts with unusual marks may differ a little from it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LONGEST = 4  # words of an n-gram
SIGMA = 6.0  # words: how fast CIDEr-D falls with the difference of lengths
SCALE = 10.0  # of CIDEr-D
_WORD = re.compile(r"\w+(?:[-.,:/]\w+)*(?:'\w+)?|'\w+")
_CLITIC = re.compile(r"(n't|'(?:s|m|d|re|ve|ll))$")
Floats = NDArray[np.float64]
Ngrams = Counter[tuple[str, ...]]


def words_of(caption: str) -> list[str]:
    """Words in lower case, without punctuation; don't is do n't, as in the Penn Treebank."""
    found: list[str] = []
    for word in _WORD.findall(caption.lower().replace("’", "'")):
        end = _CLITIC.search(word)
        found += [part for part in (word[: end.start()], end[0]) if part] if end else [word]
    return found


def cider_d(guesses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D (0..10) of each guess; the corpus' score is their mean.

    In how many rows an n-gram stands among the references is counted over the rows given, so that a row's score depends
    on which others are scored with it, and that of a single row is 0.

    Raises:
        ValueError: unequal lengths, or a row without references.
    """
    _check(guesses, references)
    known = [[_ngrams(words_of(text)) for text in texts] for texts in references]
    rows = Counter(gram for texts in known for gram in set().union(*texts))
    weigh = _Weights(rows, len(known))
    found = []
    for guess, texts in zip(guesses, known, strict=True):
        ours = weigh(_ngrams(words_of(guess)))
        found.append(SCALE * sum(_alike(ours, weigh(text)) for text in texts) / len(texts))
    return found


def bleu_counts(guesses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """What BLEU-4 adds up over rows, [rows, 10]: matches and n-grams of 1 to 4 words in turn, then words, and words of
    the reference of nearest length.

    Raises:
        ValueError: unequal lengths, or a row without references.
    """
    _check(guesses, references)
    found = np.zeros((len(guesses), 2 * LONGEST + 2))
    for line, guess, texts in zip(found, guesses, references, strict=True):
        ours, theirs = words_of(guess), [words_of(text) for text in texts]
        most: Ngrams = Counter()
        for text in theirs:
            most |= _ngrams(text)
        grams = _ngrams(ours)
        for gram, times in grams.items():
            line[2 * len(gram) - 2] += min(times, most[gram])
            line[2 * len(gram) - 1] += times
        line[-2] = len(ours)
        line[-1] = min((len(text) for text in theirs), key=lambda n: (abs(n - len(ours)), n))
    return found


def bleu(counts: Floats) -> Floats:
    """BLEU-4 (0..1) of sums of `bleu_counts`, [..., 10] -> [...]; 0 where no four words in a row match."""
    matches, grams = counts[..., 0:-2:2], counts[..., 1:-2:2]
    ours, theirs = counts[..., -2], counts[..., -1]
    good = (matches > 0).all(-1)
    share = np.where(matches > 0, matches, 1) / np.where(grams > 0, grams, 1)
    brief = np.minimum(0.0, 1 - theirs / np.where(ours > 0, ours, 1))
    found: Floats = np.where(good, np.exp(np.log(share).mean(-1) + brief), 0.0)
    return found


class _Weights:
    """n-grams -> weights of each length, their norms, words: times that one stands there * log of (rows / its rows)."""

    def __init__(self, rows: Counter[tuple[str, ...]], total: int) -> None:
        self.rows, self.total = rows, math.log(total) if total else 0.0

    def __call__(self, grams: Ngrams) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, times in grams.items():
            parts[len(gram) - 1][gram] = times * (self.total - math.log(max(1, self.rows[gram])))
        norms = [math.sqrt(sum(value * value for value in part.values())) for part in parts]
        return parts, norms, sum(times for gram, times in grams.items() if len(gram) == 1)


_Weighed = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def _alike(ours: _Weighed, theirs: _Weighed) -> float:
    """Mean over n of the cosine, with weights clipped to those of the reference, times the penalty of length."""
    total = 0.0
    for mine, other, a, b in zip(ours[0], theirs[0], ours[1], theirs[1], strict=True):
        if a and b:
            same = sum(min(value, other[gram]) * other[gram] for gram, value in mine.items() if gram in other)
            total += same / (a * b)
    return total / LONGEST * math.exp(-((ours[2] - theirs[2]) ** 2) / (2 * SIGMA**2))


def _ngrams(words: Sequence[str]) -> Ngrams:
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def _check(guesses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(guesses) != len(references) or not all(references):
        raise ValueError(f"{len(guesses)} captions for {len(references)} rows, each of which needs a reference")
