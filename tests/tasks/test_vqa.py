"""VQA's accuracy against values worked out by hand from the published rule (visualqa.org/evaluation.html)."""

import pytest

from tasks.formatting import Example
from tasks.metrics import by_row, measure
from tasks.spec import Task
from tasks.vqa import comparable, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Yes", "yes"),
        ("The  White House", "white house"),
        ("a dog, an owl", "dog owl"),
        ("two", "2"),
        ("TEN men", "10 men"),
        ("none", "0"),
        ("twenty", "twenty"),
        ("dont know", "don't know"),
        ("couldntve", "couldn't've"),
        ("hed've", "he'd've"),
        ("wont", "won't"),
        ("whats that", "what's that"),
        ("youre", "you're"),
        ("girl's", "girl's"),
        ("girl’s", "girl's"),
        ("its well", "its well"),  # words of their own
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red,blue", "red blue"),
        ("3.5 m.", "3.5 m"),
        ("U.S.", "us"),
        (".5", ".5"),  # a decimal, by the organisers' pattern too
        ("5.", "5"),
        ("black/white (mostly)", "black white mostly"),
        ("top_left-corner?!", "top left corner"),
        ("  on\tthe\ntable ", "on table"),
        ("the", ""),
        ("ça va", "ça va"),
    ],
)
def test_answers_are_made_comparable(answer, wanted):
    assert comparable(answer) == wanted
    assert comparable(wanted) == wanted


def test_ten_people():
    """Of 10 choose 9 sets: those without one who gave it have one less. 2 gave it: (2 * 1/3 + 8 * 2/3) / 10 = 0.6."""
    people = [["cat"] * n + ["dog"] * (10 - n) for n in range(11)]
    found = [vqa_accuracy("cat", answers) for answers in people]
    assert found == pytest.approx([0, 0.3, 0.6, 0.9, *[1] * 7])
    assert vqa_accuracy("The Cat.", people[2]) == pytest.approx(0.6)
    assert vqa_accuracy("2", ["two", "2", "2.", *["three"] * 7]) == pytest.approx(0.9)
    assert vqa_accuracy("bird", people[5]) == 0


def test_other_numbers_of_people():
    assert vqa_accuracy("cat", ["cat"]) == 1
    assert vqa_accuracy("cat", ["dog", "cat", "cow"]) == 1
    assert vqa_accuracy("cat", ["dog"]) == 0
    assert vqa_accuracy("cat", []) == 0
    assert vqa_accuracy("cat", ["cat", "cat", "dog", "cow"]) == pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4)


def test_as_a_metric_of_a_task():
    source = {"kind": "file", "path": "x.csv"}
    task = Task.build("t", {"kind": "generation", "metrics": ["vqa_accuracy"], "source": source}, "test")
    rows = [
        Example("1", "q", 0, "red", ("red",) * 2 + ("blue",) * 8),
        Example("2", "q", 0, "2", ("two",) * 10),
        Example("3", "q", 0, "x", ("x",) * 10),
    ]
    said = ["Red", "2", "y"]
    assert by_row("vqa_accuracy", rows, said) == pytest.approx([0.6, 1, 0])
    assert measure(task, rows, said) == pytest.approx({"vqa_accuracy": 160 / 3, "score": 160 / 3})
