"""Metrics against values worked out by hand."""

import math

import pytest

from tasks.formatting import Example
from tasks.metrics import INVALID, calibration_error, classification, measure, overlap
from tasks.spec import Task


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


# --- measure


def task(kind="classification", n=2, **changes):
    body = {"name": "t", "template": "{text}", "kind": kind, "source": {"kind": "file", "path": "x.csv"}}
    if kind == "classification":
        body["verbalizer"] = {f"c{i}": f"w{i}" for i in range(n)}
    if kind == "regression":
        body["grid"] = {"low": 0, "high": 4, "step": 1}
    if changes.get("convert"):
        body["source"] = {"kind": "hub", "repo": "a/b"}
    return Task.model_validate({**body, **changes})


def golds(labels, groups=None):
    return [Example(str(i), "", label, group=groups[i] if groups else "") for i, label in enumerate(labels)]


def test_scores_of_classes_by_hand():
    own = task(metrics=["accuracy", "f1", "matthews", "macro_f1"])
    # class 1: 2 right, 1 missed, 1 false -> F1 2*2/(4+1+1) = 2/3; class 0: 1 right, 1 + 1 wrong -> F1 1/2.
    # Matthews: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2) = 1/6
    found = measure(own, golds([1, 1, 1, 0, 0]), [1, 1, 0, 1, 0])
    expected = {"accuracy": 60.0, "f1": 200 / 3, "matthews": 100 / 6, "macro_f1": 100 * (2 / 3 + 1 / 2) / 2}
    assert found == pytest.approx({**expected, "score": expected["accuracy"]})
    assert list(found) == ["accuracy", "f1", "matthews", "macro_f1", "score"]
    assert measure(own, golds([1, 1, 0]), [1, 1, 1])["matthews"] == 0.0
    assert measure(own, golds([1, 0]), [0, 1])["matthews"] == pytest.approx(-100)


def test_invalid_is_wrong_for_every_class_metric():
    own = task(metrics=["accuracy", "f1", "matthews"])
    assert measure(own, golds([1, 0]), [INVALID, INVALID]) == {"accuracy": 0, "f1": 0, "matthews": 0, "score": 0}
    # INVALID where class 0 is right is a false alarm: F1 2*1/(2+1) and not 1
    assert measure(own, golds([1, 0]), [1, INVALID])["f1"] == pytest.approx(200 / 3)


def test_multirc_by_hand():
    own = task(convert="multirc", metrics=["multirc_f1", "multirc_em"])
    rows = golds([1, 0, 1, 1, 0, 0], groups=["0-0", "0-0", "0-1", "0-1", "0-1", "1-0"])
    found = measure(own, rows, [1, 0, 1, 0, 0, 0])  # one of three right answers is missed, in question 0-1
    assert found == pytest.approx({"multirc_f1": 80.0, "multirc_em": 200 / 3, "score": 80.0})
    assert measure(own, rows, [1, INVALID, 1, 1, 0, 0])["multirc_em"] == pytest.approx(200 / 3)


def test_correlations_by_hand():
    own = task("regression")
    rows = [Example(str(i), "", round(value), value=value) for i, value in enumerate([0.0, 1.0, 3.5])]
    assert measure(own, rows, [0, 1, 4])["spearman"] == pytest.approx(100)
    # deviations of (0, 2, 1) and (0, 1, 3.5): (-1, 1, 0) and (-1.5, -0.5, 2): 1 / sqrt(2 * 6.5)
    assert measure(own, rows, [0, 2, 1])["pearson"] == pytest.approx(100 / 13**0.5)
    assert measure(own, rows, [0, 2, 1])["spearman"] == pytest.approx(50)
    assert measure(own, rows, [2, 2, 2]) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
    assert measure(own, rows[:1], [0]) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
    assert measure(own, rows, [INVALID, 1, 4])["pearson"] < 50  # INVALID stands for 4, as far as can be from 0
    assert measure(own, rows, [INVALID] * 3)["pearson"] < 0


def test_squad_by_hand():
    rows = [
        Example("1", "", 0, "The Eiffel Tower", ("The Eiffel Tower", "eiffel tower, Paris")),
        Example("2", "", 0, "in 1889", ("in 1889",)),
        Example("3", "", 0, "x", ("x",)),
        Example("4", "", 0, "U.S.", ("U.S.",)),
    ]
    # 2: one of one words, one of two: F1 2/3. 1: equal but for article, case, full stop and blanks.
    found = measure(task("qa"), rows, ["an eiffel  tower.", "1889", "", "US"])
    assert found == pytest.approx({"squad_em": 50.0, "squad_f1": 100 * (1 + 2 / 3 + 0 + 1) / 4, "score": 50.0})
    # the second answer is nearer: "eiffel tower paris" against "paris": 2 * 1 / (1 + 3)
    assert measure(task("generation"), rows[:1], ["Paris"])["squad_f1"] == pytest.approx(50)
    assert overlap("a a b b", "b c") == 0.5  # "a" is an article; of two "b" one is right: 2 * 1 / (2 + 2)
    assert (overlap("the", "a"), overlap("the", "b"), overlap("c c", "c")) == (1.0, 0.0, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("own", "rows", "guesses", "message"),
    [
        (task(), [], [], "no rows"),
        (task(), golds([0]), [0, 1], "2 predictions for 1"),
        (task(), golds([0]), [2], r"in 0\.\.1: 2"),
        (task(), golds([0]), ["w0"], "neither INVALID"),
        (task("regression"), [Example("1", "", 0, value=1.0)], [5], r"in 0\.\.4"),
        (task("regression"), golds([0]), [0], "no value"),
        (task("qa"), golds([0]), [0], "not text"),
    ],
)
def test_bad_arguments_of_measure(own, rows, guesses, message):
    with pytest.raises(ValueError, match=message):
        measure(own, rows, guesses)


def test_calibration_error_by_hand():
    """Bins of a fifth: (.55 wrong, .6 right) are .15 over in sum, (.9 right, .95 right) .15 under, .3 wrong .3 over."""
    sure, right = [0.55, 0.6, 0.9, 0.95, 0.3], [False, True, True, True, False]
    assert calibration_error(sure, right, bins=5) == pytest.approx(100 * (0.15 + 0.15 + 0.3) / 5)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0.0)
    assert math.isnan(calibration_error([float("nan")], [True]))
    with pytest.raises(ValueError, match="0 confidences"):
        calibration_error([], [])
