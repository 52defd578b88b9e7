"""VQA's accuracy: an answer is right as far as at least three of ten people gave it. Pure.

Source: Antol et al. (2015), VQA: Visual Question Answering, section 3 (https://arxiv.org/abs/1505.00468). The steps
that make answers comparable and the mean over nine of ten people are those of https://visualqa.org/evaluation.html. The
organisers' script differs from them in details: it replaces colons and apostrophes as well, and leaves the people's
answers as they are where all ten are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

NEEDED = 3  # people who gave an answer that is right
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_PERIOD = re.compile(r"\.(?!\d)")  # .5 and 3.5 are decimals
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PUNCTUATION = re.compile(r"[^\w\s'.:]|_")  # letters and digits of all scripts stay

# Contractions, as stems and what they take. Those that are words of their own without the apostrophe are left out, as
# the organisers do: were, well, ill, its, shell, hell, shed, wed, wells, id.
_NOT = "ai are ca could did does do had has have is might must need ought sha should was were wo would"
_HAVE = "could i might must not should they we what where who would you"
_ARE = "there they what why you"
_WILL = "how it somebody someone something they what who why you"
_IS = "he how somebody someone that there what when where who why"
_WOULD = "he how it someone something there they where who you"
_OTHER = {"im": "i'm", "maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all"}


def _contractions() -> dict[str, str]:
    found = dict(_OTHER) | {f"{stem}nt": f"{stem}n't" for stem in _NOT.split()}
    for stems, end in ((_HAVE, "ve"), (_ARE, "re"), (_WILL, "ll"), (_IS, "s"), (_WOULD, "d")):
        found |= {f"{stem}{end}": f"{stem}'{end}" for stem in stems.split()}
    # Two at once, of which one or both lack the apostrophe: couldntve, he'dve.
    for stem in ("could", "had", "might", "should", "would"):
        found |= dict.fromkeys((f"{stem}ntve", f"{stem}n'tve", f"{stem}nt've"), f"{stem}n't've")
    for stem in (*_WOULD.split(), "i", "she", "somebody", "we", "y'all"):
        found |= dict.fromkeys((f"{stem}d've", f"{stem}'dve"), f"{stem}'d've")
    return found


_CONTRACTIONS = _contractions()


@lru_cache(maxsize=100_000)
def comparable(answer: str) -> str:
    """The answer as VQA compares it: lower case, numbers from none to ten as digits, no articles, contractions with
    their apostrophe, no punctuation but apostrophes, colons, and periods and commas within numbers (commas go)."""
    text = _COMMA.sub("", answer.lower().replace("’", "'"))
    text = _PUNCTUATION.sub(" ", _PERIOD.sub("", text))
    words = [_DIGITS.get(word, word) for word in text.split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(guess: str, answers: Sequence[str]) -> float:
    """Accuracy (0..1) of a guess by the answers of several people, as often as each was given.

    It is min(1, others who gave it / 3), averaged over all ways to leave one person out; of fewer than four people any
    match is right. 0 where there are no answers.
    """
    said, people = comparable(guess), [comparable(answer) for answer in answers]
    same = people.count(said)
    if len(people) <= NEEDED:
        return float(same > 0)
    with_one, without = min(1.0, (same - 1) / NEEDED), min(1.0, same / NEEDED)
    return (same * with_one + (len(people) - same) * without) / len(people) if same else 0.0
