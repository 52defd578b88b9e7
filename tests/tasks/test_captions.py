"""CIDEr-D and BLEU-4 against values of the papers, and against values worked out by hand."""

import math
import random

import numpy as np
import pytest

from tasks.captions import SCALE, bleu, bleu_counts, cider_d, words_of
from tasks.formatting import Example
from tasks.metrics import by_row, measure
from tasks.spec import Task


def bleu_of(guesses, references):
    return float(bleu(bleu_counts(guesses, references).sum(0)))


def precision(guess, references, n):
    counts = bleu_counts([guess], [references])[0]
    return counts[2 * n - 2], counts[2 * n - 1]


def test_words():
    assert words_of("A man's dog doesn't sit; 3.5 m away.") == [
        *("a", "man", "'s", "dog", "does", "n't", "sit", "3.5", "m", "away")
    ]
    assert words_of("Two-tone T-shirt, (red) - and “blue”!") == ["two-tone", "t-shirt", "red", "and", "blue"]
    assert words_of("It’s 2:50") == ["it", "'s", "2:50"]
    assert words_of(" ... ") == []


def test_precisions_of_the_paper():
    """Papineni et al. (2002), section 2: examples 1 and 2."""
    one = "It is a guide to action which ensures that the military always obeys the commands of the party."
    two = "It is to insure the troops forever hearing the activity guidebook that party direct."
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands.",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party.",
        "It is the practical guide for the army always to heed the directions of the party.",
    ]
    assert precision(one, references, 1) == (17, 18)
    assert precision(two, references, 1) == (8, 14)
    assert precision(one, references, 2) == (10, 17)
    assert precision(two, references, 2) == (1, 13)
    the = "the the the the the the the"
    cats = ["The cat is on the mat.", "There is a cat on the mat."]
    assert precision(the, cats, 1) == (2, 7)
    assert precision(the, cats, 2) == (0, 6)
    assert bleu_of([the], [cats]) == 0
    assert bleu_of([one], [references]) == pytest.approx((17 / 18 * 10 / 17 * 7 / 16 * 4 / 15) ** 0.25)


def test_bleu_of_a_corpus_by_hand():
    guesses = ["the cat is on the mat", "a dog ran fast in the park"]
    references = [["the cat is on the mat today"], ["a dog ran in the park", "the dog ran fast in a park now ok"]]
    # matches of 1 to 4 words: 6 + 7, 5 + 6, 4 + 4 (not "fast in the"), 3 + 1 of 6 + 7, 5 + 6, 4 + 5, 3 + 4.
    share = (13 / 13 * 11 / 11 * 8 / 9 * 4 / 7) ** 0.25
    # 13 words, and 7 + 6 of the references of nearest length: nothing is lost.
    assert bleu_of(guesses, references) == pytest.approx(share)
    nearest = bleu_counts(["a b c"], [["a b", "a b c d"]])[0]
    assert nearest[-1] == 2, "of two that are as near the shorter"
    short = bleu_of(["the cat is on"], [["the cat is on the mat"]])
    assert short == pytest.approx(math.exp(1 - 6 / 4))
    assert bleu_of([""], [["a b"]]) == 0


def test_cider_d_by_hand():
    """Two rows. log of (rows / rows with it): 0 for what stands in both, log 2 for what stands in one."""
    references = [["a red cat sleeps here"], ["a blue dog"]]
    # Each n-gram but "a" weighs log 2; every length of the first row has an n-gram, so the same text scores 10.
    assert cider_d(["a red cat sleeps here", "no"], references) == pytest.approx([10, 0])
    # "a blue dog" has no four words: its own text reaches 3 of 4 lengths.
    assert cider_d(["x", "a blue dog"], references)[1] == pytest.approx(7.5)
    # "red cat": of one word 2 / (sqrt 2 * sqrt 4), of two words 1 / (1 * sqrt 4), none of more; 2 words against 5.
    by_hand = 10 * (2 / math.sqrt(8) + 1 / 2) / 4 * math.exp(-9 / 72)
    assert cider_d(["red cat", "x"], references)[0] == pytest.approx(by_hand)
    # Said twice, it weighs twice, but is clipped to the reference: 2 / (2 sqrt 2 * 2) of one word; of two words
    # "red cat" (clipped), "cat red": 1 / (sqrt(4 + 1) * 2).
    twice = 10 * (2 / (math.sqrt(8) * 2) + 1 / (math.sqrt(5) * 2)) / 4 * math.exp(-1 / 72)
    assert cider_d(["red cat red cat", "x"], references)[0] == pytest.approx(twice)
    # Several references: the mean.
    both = cider_d(["a red cat sleeps here", "x"], [["a red cat sleeps here", "zz yy"], ["a blue dog"]])
    assert both[0] == pytest.approx(5)


def test_cider_d_counts_its_documents_over_the_rows_given():
    guess, reference = "a red cat sleeps here", ["a red cat sleeps here"]
    assert cider_d([guess], [reference]) == [0.0], "what stands in all rows tells nothing"
    assert cider_d([guess] * 3, [reference] * 3) == [0.0] * 3
    common = cider_d(["a red cat"] * 2 + ["x"] * 2, [["a red cat ran off"], ["a red cat sat still"], ["y y"], ["z z"]])
    rare = cider_d(["a red cat", "x", "x", "x"], [["a red cat ran off"], ["a dog sat still"], ["y y"], ["z z"]])
    assert common[0] < rare[0]


def plain_cider_d(guesses, references):
    """The formula of the paper over dense vectors, written a second time."""

    def grams(text, n):
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    scores = np.zeros(len(guesses))
    for n in range(1, 5):
        known = sorted({gram for texts in references for text in texts for gram in grams(text, n)})
        rows = np.array([sum(any(gram in grams(text, n) for text in texts) for texts in references) for gram in known])
        idf = np.log(len(references) / np.maximum(1, rows))
        vector = lambda text: np.array([grams(text, n).count(gram) for gram in known]) * idf  # noqa: E731, B023
        # Words that no reference has weigh log(rows) in the norm of the guess.
        for i, (guess, texts) in enumerate(zip(guesses, references, strict=True)):
            others = [gram for gram in grams(guess, n) if gram not in known]
            far = sum((others.count(gram) * np.log(len(references))) ** 2 for gram in set(others))
            ours = vector(guess)
            for text in texts:
                theirs = vector(text)
                size = np.sqrt((ours**2).sum() + far) * np.sqrt((theirs**2).sum())
                gap = len(guess.split()) - len(text.split())
                if size:
                    part = (np.minimum(ours, theirs) * theirs).sum() / size * np.exp(-(gap**2) / 72)
                    scores[i] += SCALE * part / 4 / len(texts)
    return scores


def test_cider_d_against_the_formula_written_a_second_time():
    draw = random.Random(0)
    words = ["a", "the", "red", "blue", "cat", "dog", "sits", "runs", "on", "under", "mat", "here"]
    text = lambda: " ".join(draw.choices(words, k=draw.randint(2, 9)))  # noqa: E731
    references = [[text() for _ in range(draw.randint(1, 5))] for _ in range(12)]
    guesses = [draw.choice([text(), draw.choice(texts), "odd " + text()]) for texts in references]
    found = cider_d(guesses, references)
    assert found == pytest.approx(plain_cider_d(guesses, references))
    assert max(found) > 1


def test_as_metrics_of_a_task():
    source = {"kind": "file", "path": "x.csv"}
    task = Task.build("t", {"kind": "generation", "metrics": ["cider_d", "bleu4"], "source": source}, "test")
    rows = [
        Example("1", "", 0, "x", ("a red cat sleeps here", "zz yy")),
        Example("2", "", 0, "x", ("a blue dog runs over there",)),
    ]
    said = ["A red cat sleeps here.", "a blue dog"]
    found = measure(task, rows, said)
    each = by_row("cider_d", rows, said)
    assert each[0] == pytest.approx(5)
    assert found["cider_d"] == found["score"] == pytest.approx(100 * sum(each) / 2)
    grams = ((5 + 3) / 8, (4 + 2) / 6, (3 + 1) / 4, 2 / 2)
    assert found["bleu4"] == pytest.approx(100 * math.prod(grams) ** 0.25 * math.exp(1 - 11 / 8))
    with pytest.raises(ValueError, match="reference"):
        cider_d(["a"], [[]])
    with pytest.raises(ValueError, match="no value for a row"):
        by_row("bleu4", rows, said)
