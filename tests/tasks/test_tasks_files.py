"""A user's own files for training, validation and test, and data sets that the library `datasets` has saved."""

import json
import os

import pytest

from infra.errors import InputError
from tasks import load
from tasks.draws import few_shot, subset
from tasks.load import load_splits
from tasks.rows_file import read_rows, write_rows
from tasks.sources import read
from tasks.spec import Task
from tests.flows.test_cli_tasks import dept, written


def task(folder, name="m", **source):
    body = {"name": name, "verbalizer": {"a": "good", "b": "bad"}, "source": {"kind": "file", **source}}
    return Task.model_validate(body).rooted(folder)


def rows(start, n, mark="row"):
    return [{"text": f"{mark} {i} is here", "label": "ab"[i % 2]} for i in range(start, start + n)]


def write(path, given):
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in given))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in given))


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "train.csv", rows(0, 60))
    write(tmp_path / "dev.csv", rows(100, 20))
    write(tmp_path / "test.csv", rows(200, 30))
    return tmp_path


def sizes(splits):
    return [len(part) for part in splits.parts().values()]


def numbers(part):
    return {int(row.text.split()[1]) for row in part}


def test_three_files(files):
    splits = load_splits(task(files, path="train.csv", validation="dev.csv", test="test.csv"))
    assert sizes(splits) == [60, 20, 30, 0]
    assert numbers(splits.train) == set(range(60))
    assert numbers(splits.validation) == set(range(100, 120))
    assert numbers(splits.test) == set(range(200, 230))
    few_shot(splits, 16, 0, 2)


def test_what_has_no_file_is_taken_out_of_the_training_rows(files):
    splits = load_splits(task(files, path="train.csv", test="test.csv"))
    assert sizes(splits) == [54, 6, 30, 0]
    assert numbers(splits.test) == set(range(200, 230))
    assert numbers(splits.train) | numbers(splits.validation) == set(range(60))
    splits = load_splits(task(files, path="train.csv", validation="dev.csv"))
    assert sizes(splits) == [48, 20, 12, 0]
    assert numbers(splits.validation) == set(range(100, 120))


def test_no_row_stands_in_two_files(files):
    same = [{"text": " ROW  3 is here", "label": "b"}, {"text": "row 205 is here", "label": "b"}]
    write(files / "dev.csv", rows(100, 20) + same)
    splits = load_splits(task(files, path="train.csv", validation="dev.csv", test="test.csv"))
    assert sizes(splits) == [59, 21, 30, 0]  # row 3 stays where it is held out, row 205 in the test file
    assert splits.dropped["leaked"] == 2
    pairs = {"template": "{one} {two}", "verbalizer": {"a": "good", "b": "bad"}}
    left = [{"one": f"x {i}", "two": f"y {i}", "label": "ab"[i % 2]} for i in range(20)]
    write(files / "p.jsonl", left)
    write(files / "q.jsonl", [{"one": "y 4", "two": "x 4", "label": "a"}, {"one": "z", "two": "w", "label": "b"}])
    made = Task.model_validate({"name": "p", **pairs, "source": {"kind": "file", "path": "p.jsonl", "test": "q.jsonl"}})
    assert load_splits(made.rooted(files)).dropped["leaked"] == 1  # the other way round is the same row


def test_data_hash_covers_all_files(files):
    named = task(files, path="train.csv", validation="dev.csv", test="test.csv")
    found = {load_splits(named).data_hash}
    for name, start in (("train.csv", 0), ("dev.csv", 100), ("test.csv", 200)):
        write(files / name, rows(start, 60 if name == "train.csv" else 20) + rows(500 + start, 2))
        found.add(load_splits(named).data_hash)
    assert len(found) == 4
    found.add(load_splits(task(files, path="train.csv", validation="test.csv", test="dev.csv")).data_hash)
    assert len(found) == 5


def test_keys_that_decide_numbers_are_in_the_hash(files):
    found = set()
    for changes in ({}, {"cut": "text"}, {"cut": "start"}, {"max_length": 9}):
        found.add(load_splits(task(files, path="train.csv").model_copy(update=changes)).data_hash)
    qa = Task.model_validate({"name": "q", "kind": "qa", "source": {"kind": "file", "path": files / "train.csv"}})
    found |= {load_splits(qa.model_copy(update={"answer_length": n})).data_hash for n in (None, 40)}
    assert len(found) == 6


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"path": "train.csv", "test": "none.csv"}, "none.csv: no such file"),
        ({"path": "train.csv", "test": "bad.csv"}, r"bad.csv, line 2: label 'c' is not in the verbalizer"),
        ({"path": "train.csv", "test": "header.csv"}, "header.csv: holds no rows"),
        ({"path": "train.csv", "test": "train.csv"}, "no train row is left that stands in no other file"),
        ({"path": "one.csv", "test": "test.csv"}, "label 'b' has no usable rows; it needs at least two"),
        ({"path": "one.csv", "validation": "dev.csv", "test": "test.csv"}, "label 'b' has no usable rows"),
    ],
)
def test_files_that_will_not_do(files, source, said):
    (files / "bad.csv").write_text("text,label\nx,c\n")
    (files / "header.csv").write_text("text,label\n")
    write(files / "one.csv", [{"text": f"one {i}", "label": "a"} for i in range(9)])
    with pytest.raises(InputError, match=said):
        load_splits(task(files, **source))


def test_new_and_check_on_three_files(files):
    out = files / "own.yaml"
    arguments = ("--validation", str(files / "dev.csv"), "--test", str(files / "test.csv"))
    result = dept("tasks", "new", str(files / "train.csv"), *arguments, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "rows with a label: 60 train, 20 validation, 30 test" in out.read_text()
    shown = dept("tasks", "check", str(out)).stdout
    assert "rows: 60 train, 20 validation, 30 test" in shown
    (files / "dev.csv").write_text("body,grade\nx,a\n")
    result = dept("tasks", "new", str(files / "train.csv"), *arguments)
    assert result.exit_code == 2
    assert "dev.csv: no column 'text'" in result.stderr


def saved(folder, hidden=True, **splits):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])}
    )
    made = {}
    for name, n in splits.items():
        labels = [-1] * n if name == "test" and hidden else [i % 2 for i in range(n)]
        body = {"text": [f"{name} {i} is here" for i in range(n)], "label": labels}
        made[name] = datasets.Dataset.from_dict(body, features=features)
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return folder


def numbered(folder, **source):
    body = {"name": "s", "verbalizer": {"0": "sad", "1": "glad"}, "source": {"kind": "file", "path": folder, **source}}
    return Task.model_validate(body)


def test_a_data_set_saved_to_disk(tmp_path):
    folder = saved(tmp_path / "set", hidden=False, train=40, validation=10, test=12)
    assert sizes(load_splits(numbered(folder))) == [40, 10, 12, 0]
    assert sizes(load_splits(numbered(folder / "train"))) == [28, 4, 8, 0]  # one data set: split by us
    parts = {"validation": folder / "validation", "test": folder / "test"}
    named = load_splits(numbered(folder / "train", **parts))
    assert named.data_hash == load_splits(numbered(folder)).data_hash
    out = tmp_path / "own.yaml"
    assert dept("tasks", "new", str(folder), "--out", str(out)).exit_code == 0
    assert "'0': sad" in out.read_text()
    assert "rows: 40 train, 10 validation, 12 test" in dept("tasks", "check", str(out)).stdout


def test_hidden_labels_of_a_saved_test_split(tmp_path):
    folder = saved(tmp_path / "set", train=40, validation=10, test=12)
    splits = load_splits(numbered(folder))
    assert sizes(splits) == [32, 10, 8, 0]
    assert splits.dropped["unlabelled"] == 12
    made, _ = written(folder)
    assert made.source.test is None
    with pytest.raises(InputError, match="test: no row has a label"):
        load_splits(numbered(folder, test=folder / "test"))


def test_saved_data_sets_that_will_not_do(tmp_path):
    folder = saved(tmp_path / "set", first=10, second=10)
    with pytest.raises(InputError, match="no split called train"):
        load_splits(numbered(folder))
    assert sizes(load_splits(numbered(folder / "first")))[0] == 6
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="none that save_to_disk of `datasets` wrote"):
        load_splits(numbered(tmp_path / "plain"))
    broken = folder / "first" / "state.json"
    broken.write_text("{")
    with pytest.raises(InputError, match="not a folder that save_to_disk wrote"):
        load_splits(numbered(folder / "first"))


def test_a_changed_data_set_is_read_again(tmp_path):
    folder = saved(tmp_path / "set", train=40)
    before = load_splits(numbered(folder))
    assert load_splits(numbered(folder)) is before
    saved(tmp_path / "set", train=44)
    assert load_splits(numbered(folder)).data_hash != before.data_hash


@pytest.mark.parametrize("n", [30, 120, 1400, 4000])
def test_rows_travel_as_a_file(tmp_path, n):
    write(tmp_path / "rows.csv", rows(0, n))
    own = task(tmp_path, path="rows.csv")
    splits = load_splits(own)
    sha = write_rows(own, splits, tmp_path / "rows.jsonl")
    again = read_rows(own, tmp_path / "rows.jsonl", sha)
    assert again == splits
    assert (again.judge, again.labels, again.answer_length) == (splits.judge, splits.labels, splits.answer_length)
    for k in (1, 7, min(300, len(splits.test))):
        assert subset(again.test, k, 0) == subset(splits.test, k, 0)
    assert few_shot(again, 4, 3, 2) == few_shot(splits, 4, 3, 2)
    write(tmp_path / "rows.csv", rows(0, n)[::-1])
    assert write_rows(own, load_splits(own), tmp_path / "other.jsonl") == sha  # the order of the file does not matter


def test_a_rows_file_is_not_trusted(tmp_path):
    write(tmp_path / "rows.csv", rows(0, 40))
    own = task(tmp_path, path="rows.csv")
    path = tmp_path / "rows.jsonl"
    sha = write_rows(own, load_splits(own), path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="another template"):
        read_rows(own.model_copy(update={"template": "Other: {text}", "cut": "start"}), path, sha)
    for damaged in (whole[:-30], whole.replace(b"row 3 ", b"row 9 "), b"", b"\xff\n", b"[1]\n", b'{"format": 9}\n'):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not the file that was stored"):
            read_rows(own, path, sha)
        with pytest.raises(InputError, match="rows\\.jsonl: "):
            read_rows(own, path)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(own, tmp_path / "none.jsonl")


def test_each_task_is_read_once(tmp_path, monkeypatch):
    """However many tasks there are, as long as someone holds their rows."""
    count = []
    monkeypatch.setattr(load, "MOST_BYTES", 5000)
    real = read.read_table
    monkeypatch.setattr(read, "read_table", lambda path, *a, **k: count.append(path.name) or real(path, *a, **k))
    tasks = []
    for i in range(100):
        write(tmp_path / f"t{i}.csv", rows(0, 12, f"task{i}"))
        tasks.append(task(tmp_path, f"t{i}", path=f"t{i}.csv"))
    held = [load_splits(each) for each in tasks]
    again = [load_splits(each) for each in tasks for _ in range(3)]
    assert again[::3] == held
    assert len(count) == 100
    write(tmp_path / "t7.csv", rows(0, 14, "changed"))
    os.utime(tmp_path / "t7.csv", ns=(1, 1))
    assert load_splits(tasks[7]).data_hash != held[7].data_hash
    assert len(count) == 101
    del held, again
    for each in tasks:
        load_splits(each)
    assert len(count) > 190  # what no one holds is let go, so that memory is bounded


def test_a_folder_of_several_splits_names_them(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"text": ["a", "b"]})
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="holds several splits; name the folder of one: test, train"):
        list(read.read_table(tmp_path / "saved"))
