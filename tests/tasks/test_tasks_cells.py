"""Types of cells: one reading of a value in every format, in `tasks check` and in `tasks new`."""

import datetime
import json
from decimal import Decimal

import pyarrow
import pytest
from pyarrow import parquet

from flows.planning.look_at_data import Column
from flows.planning.new_task import new_block
from infra.errors import InputError
from tasks.load import load_splits
from tasks.sources.cells import meant
from tasks.spec import Task
from tests.flows.test_cli_tasks import written

NAN = float("nan")


def write(path, labels, kind=None):
    texts = [f"row number {i} of the file" for i in range(len(labels))]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in zip(texts, labels, strict=True)))
    elif path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(texts, labels, strict=True)))
    else:
        column = pyarrow.array(labels, kind) if kind is not None else pyarrow.array(labels)
        parquet.write_table(pyarrow.table({"text": texts, "label": column}), path)
    return path


def task(path, labels=("0", "1"), **changes):
    verbalizer = {} if "kind" in changes else {label: f"word {i}" for i, label in enumerate(labels)}
    return Task.model_validate(
        {"name": "m", "verbalizer": verbalizer, "source": {"kind": "file", "path": path}, **changes}
    )


def both(path, labels):
    """The task that `tasks new` writes of a file has these labels, and its rows can be used."""
    made, said = written(path)
    assert set(made.labels) == set(labels), said
    assert "Mend first" not in said
    return load_splits(made)


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ([0, 1], None, ("0", "1")),
        ([0.0, 1.0], None, ("0", "1")),
        ([False, True], None, ("false", "true")),
        ([Decimal("0"), Decimal("1.00")], None, ("0", "1")),
        ([datetime.date(2026, 1, 31), datetime.date(2026, 2, 1)], None, ("2026-01-31", "2026-02-01")),
        (["x y", "z"], pyarrow.large_string(), ("x y", "z")),
        ([b"x", b"z\xc3\xa9"], pyarrow.binary(), ("x", "z\u00e9")),
        (["x", "z"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ("x", "z")),
        (["x\u00a0y", " z "], None, ("x y", "z")),
        (["cafe\u0301", "bar"], None, ("caf\u00e9", "bar")),
        (["label", "probability"], None, ("label", "probability")),
        (["text", "row"], None, ("text", "row")),
    ],
)
def test_labels_of_every_type(tmp_path, values, kind, labels):
    path = write(tmp_path / "rows.parquet", values * 20, kind)
    splits = both(path, labels)
    assert sum(map(len, splits.parts().values())) == 40
    assert splits.labels == tuple(sorted(labels)) or set(splits.labels) == set(labels)


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["1.0", "0.0"], ("1", "0")),
        (["1", "0"], ("1.0", "0.0")),
        ([1.0, 0.0], ("1", "0")),
        ([1.0, 0.0], ("1.0", "0.0")),
        ([1, 0], ("1.0", "0.0")),
    ],
)
def test_whole_numbers_are_one_label_however_written(tmp_path, cells, labels):
    path = write(tmp_path / "rows.jsonl", cells * 10)
    splits = load_splits(task(path, labels))
    assert sum(map(len, splits.parts().values())) == 20
    assert all(row.label in (0, 1) for row in splits.train)


def test_numbers_that_are_two_labels_stay_two():
    assert meant("01", {"1": 0, "01": 1}) == "01"
    assert meant("1.0", {"1": 0, "01": 1}) is None
    assert meant("1.5", {"1": 0}) is None
    assert meant("+1", {"1": 0}) == "1"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("nothing", [None, NAN])
def test_a_missing_label_is_one_whatever_stands_there(tmp_path, ending, nothing):
    path = write(tmp_path / f"rows.{ending}", [0.0, 1.0, nothing, *[0.0, 1.0] * 10, nothing, nothing])
    place = "line" if ending == "jsonl" else "row"
    said = rf"{place} 3: the label \('label'\) is missing, and in 2 more rows \(24, 25\); fill it in or remove the rows"
    with pytest.raises(InputError, match=said):
        load_splits(task(path))
    made, text = written(path)
    assert made.labels == ("0", "1")
    assert "# Mend first: 3 rows have nothing in column label" in text


@pytest.mark.parametrize("nothing", ["", "nan", "NaN", "<NA>", "NaT", "None", "NA", "N/A", "null"])
def test_words_for_nothing_in_a_csv(tmp_path, nothing):
    path = write(tmp_path / "rows.csv", ["0", "1"] * 10 + [nothing])
    with pytest.raises(InputError, match=r"line 22: the label \('label'\) is missing"):
        load_splits(task(path))
    made, text = written(path)
    assert made.labels == ("0", "1")
    assert "# Mend first: 1 rows have nothing in column label" in text
    if nothing:
        assert len(load_splits(task(write(path, ["0", nothing] * 10), ("0", nothing))).train)  # if it is a label, it is


def test_words_for_nothing_among_words(tmp_path):
    made, text = written(write(tmp_path / "rows.csv", ["good", "None", "NA"] * 10))
    assert set(made.labels) == {"good", "None", "NA"}
    made, text = written(write(tmp_path / "rows.csv", ["good", "bad"] * 10 + ["NaN"]))
    assert set(made.labels) == {"good", "bad"}
    assert "Mend first: 1 rows" in text


def test_decimals_and_missing_numbers_of_a_regression(tmp_path):
    numbers = [Decimal(i) / 4 for i in range(21)]
    path = write(tmp_path / "rows.parquet", numbers * 2)
    made, _ = written(path)
    assert made.kind == "regression"
    splits = load_splits(made)
    assert {row.value for part in splits.parts().values() for row in part} == {float(n) for n in numbers}
    grid = {"kind": "regression", "grid": {"low": 0, "high": 5, "step": 1}}
    for nothing in (NAN, None):
        path = write(tmp_path / "rows.jsonl", [0.5, nothing, 2.5])
        with pytest.raises(InputError, match=r"line 2: the (label|number) \('label'\) is missing"):
            load_splits(task(path, **grid))
    with pytest.raises(InputError, match=r"line 1: 'Infinity' .* is not a number from 0 to 5"):
        load_splits(task(write(tmp_path / "rows.jsonl", [float("inf")]), **grid))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("Good", "label 'Good' is not in the verbalizer of task m (good, bad), but 'good' is"),
        ("go\u200bod", r"label 'go\u200bod' is not in the verbalizer of task m (good, bad), but 'good' is"),
        ("\uff47ood", "but 'good' is"),
        ("goood", "but 'good' is"),
        ("elsewhere", "label 'elsewhere' is not in the verbalizer of task m (good, bad); add it there"),
        ("x" * 5000, "x" * 39 + "\u2026'"),
    ],
)
def test_a_label_that_is_none_is_told_with_the_nearest(tmp_path, cell, said):
    path = write(tmp_path / "rows.jsonl", ["good", "bad", cell])
    with pytest.raises(InputError) as caught:
        load_splits(task(path, ("good", "bad")))
    assert "line 3" in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_letters_in_other_code_points_are_the_same(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for cells, labels in (((composed, "bar"), (apart, "bar")), ((apart, "bar"), (composed, "bar"))):
        path = write(tmp_path / "rows.csv", list(cells) * 10)
        splits = load_splits(task(path, labels))
        assert splits.labels == (composed, "bar")
    with pytest.raises(ValueError, match="stands there twice"):
        task(path, (composed, apart))
    texts = [{"text": f"{word} number {i}", "label": "01"[i % 2]} for i in range(20) for word in (composed, apart)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    assert load_splits(task(tmp_path / "rows.jsonl")).dropped["duplicate"] == 20
    body = {"template": f"{apart}: {{text}}", "verbalizer": {"0": apart, "1": "b"}}
    made = Task.build("m", body | {"source": {"kind": "file", "path": "x.csv"}}, "test")
    assert made.template == f"{composed}: {{text}}"
    assert made.words == (composed, "b")


def test_answers_that_are_missing_in_lists(tmp_path):
    rows = [{"text": f"row {i} x", "label": ["x", None, NAN]} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load_splits(task(tmp_path / "rows.jsonl", kind="qa"))
    assert {row.answers for row in splits.train} == {("x",)}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "x", "label": [NAN]}) + "\n")
    with pytest.raises(InputError, match=r"line 1: the answer \('label'\) is missing"):
        load_splits(task(tmp_path / "rows.jsonl", kind="qa"))


def test_columns_called_as_we_call_things(tmp_path):
    rows = [{"label": f"text of {i} is here", "row": f"more {i} of it", "text": "ab"[i % 2]} for i in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = new_block(str(path), ("label", "row"), "text")
    assert "label: {label}" in block
    made, _ = written(path, "--text", "label", "--text", "row", "--label", "text")
    assert sum(map(len, load_splits(made).parts().values())) == 20


def test_columns_know_what_is_missing():
    assert Column("a", [1.0, NAN, None, "", "NaN", 2.0]).missing == 4
    assert Column("a", ["1", "NA", "2"]).numbers == [1.0, 2.0]
    assert Column("a", [Decimal("1.5"), Decimal("NaN")]).numbers == [1.5]
    assert Column("a", [1.0, 2.0]).keys == {"1", "2"}
    assert Column("a", [1.5, 2.0]).keys == {"1.5", "2.0"}
