"""Metrics against values worked out by hand."""

import pytest

from tasks.metrics import INVALID, classification


def test_by_hand():
    # class 0: precision 2/3, recall 2/2, F1 0.8; class 1: precision 1/1, recall 1/2, F1 2/3
    scores = classification([0, 0, 0, 1], [0, 0, 1, 1], 2)
    assert scores == {"accuracy": 75.0, "macro_f1": pytest.approx(100 * (0.8 + 2 / 3) / 2)}
    assert classification([1, 0], [1, 0], 2) == {"accuracy": 100.0, "macro_f1": 100.0}
    assert classification([0, 1], [1, 0], 2) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_invalid_is_always_wrong():
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: F1 1. INVALID is no third class of the mean.
    scores = classification([0, INVALID, 1], [0, 0, 1], 2)
    assert scores["accuracy"] == pytest.approx(100 * 2 / 3)
    assert scores["macro_f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert classification([INVALID, INVALID], [0, 1], 2) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_a_class_that_never_occurs_counts_nought():
    assert classification([0, 1], [0, 1], 3)["macro_f1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([], [], "no rows"),
        ([0], [0, 1], "1 predictions for 2 labels"),
        ([0, 1], [0], "2 predictions for 1 labels"),
        ([0], [2], "label is outside"),
        ([0], [INVALID], "label is outside"),
        ([2], [0], "prediction is neither"),
        ([-2], [0], "prediction is neither"),
    ],
)
def test_bad_arguments(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        classification(predictions, labels, 2)
