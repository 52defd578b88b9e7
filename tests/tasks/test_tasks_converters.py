"""Converters against T5's own output forms, and the leakage guard."""

import pytest

from tasks.formatting import Example
from tasks.leakage import guard
from tasks.sources.converters import convert, one_per_answer


def wsc(text, first, second):
    spans = {"span1_text": first[0], "span1_index": first[1], "span2_text": second[0], "span2_index": second[1]}
    return {"text": text, "idx": 0, "label": 1, **spans}


@pytest.mark.parametrize(
    ("row", "marked"),
    [
        (
            wsc("Mark told Pete many lies about himself, which Pete included in his book.", ("Mark", 0), ("He", 4)),
            "* Mark * told Pete many # lies # about himself, which Pete included in his book.",
        ),
        (
            wsc("Mark told Pete lies. He should have been more truthful.", ("Mark", 0), ("He", 4)),
            "* Mark * told Pete lies. # He # should have been more truthful.",
        ),
        (
            wsc("I put the cake away in the refrigerator. It has butter in it.", ("it.", 12), ("the cake", 2)),
            "I put # the cake # away in the refrigerator. It has butter in * it. *",
        ),
        (
            wsc("We gave (him) Ann's book, not hers.", ("Ann", 3), ("hers", 6)),
            "We gave (him) * Ann *'s book, not # hers #.",
        ),
        (wsc("The man saw his dog", ("The man", 0), ("man", 1)), "* The # man # * saw his dog"),
    ],
)
def test_spans(row, marked):
    (out,) = convert("mark-spans", [row])
    assert out["text"] == marked
    assert {key: out[key] for key in row if key != "text"} == {key: row[key] for key in row if key != "text"}


def test_a_span_outside_the_text():
    with pytest.raises(ValueError, match="span2_index 9 is outside the text of 3 words"):
        list(convert("mark-spans", [wsc("a b c", ("a", 0), ("c", 9))]))


def test_multirc():
    row = {
        "paragraph": "<b>Sent 1: </b>He went home.<br><b>Sent 2: </b>2 < 3 <br/> she said.",
        "question": "Who  <i>went</i>?",
        "answer": "He<br>",
        "idx": {"paragraph": 3, "question": 14, "answer": 7},
        "label": 1,
    }
    (out,) = convert("multirc", [row])
    assert out["paragraph"] == "Sent 1: He went home. Sent 2: 2 < 3 she said."
    assert (out["question"], out["answer"], out["group"]) == ("Who went?", "He", "3-14")


def test_record():
    passage = 'He "won."\n@highlight\nSecond point\n@highlight\nThird.'
    row = {"passage": passage, "query": "@placeholder won", "entities": ["Ann", "Bo"], "answers": ["Bo"]}
    (out,) = convert("record", [row])
    assert out["passage"] == 'He "won." Second point. Third.'
    assert out["entities"] == "Ann, Bo"


def test_one_row_per_answer():
    rows = list(one_per_answer([Example("a", "t", 0, "x", ("x", "y")), Example("b", "u", 0, "z", ("z",))]))
    assert [(row.id, row.target, row.answers) for row in rows] == [
        ("a.0", "x", ("x", "y")),
        ("a.1", "y", ("x", "y")),
        ("b.0", "z", ("z",)),
    ]


def test_no_converter_changes_nothing():
    row = {"a": [1]}
    assert next(convert(None, [row])) is row


def test_guard_drops_rows_that_are_held_out():
    rows = [
        Example("1", "the same", 0),
        Example("2", "The  SAME\n", 1),
        Example("3", "other template: x", 0, key="k"),
        Example("4", "kept", 0, key="free"),
        Example("5", "kept too", 0),
    ]
    kept, dropped = guard(rows, [Example("t", "the same", 1), Example("u", "x", 0, key="k")])
    assert [row.id for row in kept] == ["4", "5"]
    assert dropped == 3
    assert guard(rows, []) == (rows, 0)
