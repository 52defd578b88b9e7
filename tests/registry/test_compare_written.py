"""Decisions by metrics of written answers: VQA's accuracy, CIDEr-D, BLEU-4; and rows with pictures."""

from dataclasses import replace

import numpy as np
import pytest

from registry.promotion import resample
from registry.promotion.compare import compare, rows_hash
from registry.promotion.resample import weighted
from tasks.formatting import Example
from tasks.metrics import by_row, measure
from tasks.pictures import Picture
from tests.registry.test_compare import task

WRITTEN = [
    ("a red cat sits here", ("a red cat sits here", "the cat is red")),
    ("a dog runs over there", ("a dog runs over there now", "that dog runs")),
    ("2 men", ("two men",) * 5 + ("three men",) * 5),
    ("a blue bird on a tree", ("the bird on a tree is blue", "blue bird on a tree today")),
]


@pytest.mark.parametrize("metric", ["vqa_accuracy", "cider_d", "bleu4"])
def test_weighted_metrics_of_written_answers(metric):
    of = task(metric)
    rows = [Example(str(i), "x", 0, answers[0], answers) for i, (_, answers) in enumerate(WRITTEN * 2)]
    said = [text if i % 3 else "no" for i, (text, _) in enumerate(WRITTEN * 2)]
    weights = np.vstack([np.ones(8), [0, 1, 1, 0, 1, 2, 3, 0]]).astype(float)
    found = weighted(of, rows, said, weights)
    assert found[0] == pytest.approx(measure(of, rows, said)["score"])
    if metric == "cider_d":  # its documents are those of all rows, whichever are drawn
        each = np.array(by_row(metric, rows, said))
        assert found[1] == pytest.approx(100 * (weights[1] @ each) / 8)
    else:
        again = [i for i in range(8) for _ in range(int(weights[1][i]))]
        wanted = measure(of, [rows[i] for i in again], [said[i] for i in again])["score"]
        assert found[1] == pytest.approx(wanted)


@pytest.mark.parametrize("metric", ["vqa_accuracy", "cider_d", "bleu4"])
def test_captions_that_are_better_take_over(metric, monkeypatch):
    monkeypatch.setattr(resample, "DRAWS", 200)
    of = task(metric)
    rows = [Example(str(i), "x", 0, answers[0], answers) for i, (_, answers) in enumerate(WRITTEN * 25)]
    good = [text for text, _ in WRITTEN * 25]
    worse = [text if i % 4 else "a the" for i, text in enumerate(good)]
    found = compare(of, rows, worse, good, margin=1.0)
    assert found.better
    assert found.wins == 25
    assert found.losses == 0
    assert not compare(of, rows, good, good, margin=0.0).better
    assert not compare(of, rows, good, worse, margin=0.0).better


def test_pictures_are_part_of_what_was_compared():
    bare = Example("1", "x", 0, "yes")
    seen = [replace(bare, picture=Picture(sha, "p")) for sha in ("a", "b", "a")]
    assert len({rows_hash([row]) for row in (bare, *seen)}) == 3
