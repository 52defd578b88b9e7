"""Rows with pictures from wheels, from repositories of the hub, and from what its library has saved."""

import dataclasses
import importlib.util
import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from infra.errors import InputError
from tasks.catalogue import get_task
from tasks.draws import few_shot
from tasks.leakage import guard
from tasks.load import load_splits
from tasks.metrics import measure
from tasks.picture_reader import read_picture
from tasks.pictures import Picture, payload_of
from tasks.spec import Task
from tests.tasks.picture_cases import folder_of, pictures_of, png, task_of

EASY = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="the wheel easy-vqa is not installed (make test installs it)"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


@EASY
def test_easy_vqa_from_its_wheel():
    found = {}
    for name, rows, tested, answers in (("yesno", 28407, 7136, 2), ("open", 10168, 2537, 11)):
        task = get_task(f"easy-vqa-{name}")
        splits = found[name] = load_splits(task)
        assert len(splits.train) + len(splits.validation) == rows  # all of the wheel's training questions
        assert len(splits.test) == tested
        assert 500 <= len(splits.validation) <= 560
        parts = [pictures_of(part) for part in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        for part in (splits.train, splits.validation, splits.test):
            assert set(Counter(row.label for row in part)) == set(range(answers))
        assert all("/test/" in row.picture.path for row in splits.test)
        assert all("/train/" in row.picture.path for row in (*splits.train, *splits.validation))
        assert splits.data_hash[:8] == {"yesno": "e0f81cad", "open": "d08153cc"}[name]
        assert len({id(row.picture) for row in splits.train}) == len(parts[0]), "rows share their picture's reference"
        for k in (4, 16, 32):
            few_shot(splits, k, 0, task.strata)
    # Validation pictures of the one are not trained on by the other before these are guarded: few are.
    kept, _ = guard(found["yesno"].train, (*found["open"].validation, *found["open"].test))
    assert len(kept) > 26_000
    row = next(row for row in found["open"].train if row.target == "teal")
    image = read_picture(row.picture)
    assert image.size == (64, 64)
    assert row.text.startswith("Question: what")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package like easy_vqa: rows of two tasks in lists, pictures by number; returns a block of one of them."""
    folder = tmp_path / "site" / "tiny_vqa" / "data"
    for part, first in (("train", 0), ("test", 100)):
        (folder / part / "images").mkdir(parents=True)
        rows = []
        for number in range(30):
            (folder / part / "images" / f"{number}.png").write_bytes(png(first + number))
            rows.append(["is it red?", ("no", "yes")[number % 2], number])
            rows.append(["what is it?", ("a ball", "a box")[number % 2], number])
        (folder / part / "questions.json").write_text(json.dumps(rows))
    (folder.parent / "__init__.py").write_text("raise ImportError('looked up, never imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = {
        **{"kind": "package", "package": "tiny_vqa", "requirement": "tiny-vqa==1.0", "reader": "lists"},
        **{"path": "data/train/questions.json", "test": "data/test/questions.json", "skip_others": True},
        **{"text": "0", "label": "1", "picture": "2", "pictures": "images/{}.png"},
    }
    return {"verbalizer": {"no": "no", "yes": "yes"}, "source": source}, folder


def test_two_tasks_in_one_file_of_a_wheel(wheel):
    block, _ = wheel
    splits = load_splits(Task.build("asked", block, "test"))
    assert {row.text for row in splits.test} == {"is it red?\nLabel:"}
    assert (len(splits.train) + len(splits.validation), len(splits.test), len(splits.judge)) == (30, 30, 0)
    assert {row.id.partition("-")[0] for row in splits.test} == {"test"}
    assert all("/train/" in row.picture.path for row in (*splits.train, *splits.validation))
    other = Task.build("told", block | {"verbalizer": {"a ball": "ball", "a box": "box"}}, "test")
    assert pictures_of(load_splits(other).validation) == pictures_of(splits.validation), "the same are held out"


@pytest.mark.parametrize(
    ("change", "rows", "said"),
    [
        ({"skip_others": False}, None, r"label 'a ball' is not in the verbalizer"),
        ({"pictures": "images/{name}.png"}, None, r"images/\{name\}\.png: no such file"),
        ({"pictures": "../../../{}.png"}, None, "leads out of"),
        ({"test": "data/none.json"}, None, r"its file data/none\.json is missing"),
        ({}, [["is it?", "no"]], "row 1: no column '2'"),
        ({}, [["is it?"]], "row 1: no column '1'"),
        ({}, [{"question": "is it?"}], "not a JSON list of lists"),
        ({}, "broken", "not a JSON list of lists"),
    ],
)
def test_wheels_that_are_not_as_the_block_says(wheel, change, rows, said):
    block, folder = wheel
    if rows is not None:
        (folder / "train" / "questions.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=said):
        load_splits(Task.build("asked", block | {"source": block["source"] | change}, "test"))


@EASY
def test_thousands_of_rows_are_small():
    rows = load_splits(get_task("easy-vqa-open")).train
    pictures = [*{row.picture.sha256: row.picture for row in rows}.values()]
    assert len(pickle.dumps(pictures)) < 250 * len(pictures)
    assert all(not hasattr(picture, "__dict__") for picture in pictures)
    assert {field.name for field in dataclasses.fields(Picture)} == {"sha256", "path", "start", "size"}


def parquet_of(path, rows):
    """As `datasets` writes pictures: a struct of bytes and path."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def vqa_row(split, number):
    people = ["red"] * 6 + ["crimson"] * 3 + ["Red"]
    return {
        "question_type": "what color",
        "multiple_choice_answer": "red",
        "answers": [{"answer": said, "answer_confidence": "yes", "answer_id": i} for i, said in enumerate(people, 1)],
        "image_id": number,
        "answer_type": "other",
        "question_id": 1000 * (split == "validation") + number,
        "question": f"What color is thing {number % 4}?",
        "image": {"bytes": png(500 * (split == "validation") + number // 2), "path": f"{number}.jpg"},
    }


def test_vqav2_in_the_schema_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    for split, n in (("train", 40), ("validation", 12)):
        rows = [vqa_row(split, number) for number in range(n)]
        parquet_of(tmp_path / "vqav2" / f"{split}.parquet", rows)
    task = get_task("vqav2")
    splits = load_splits(task)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [32, 8, 12]
    assert not pictures_of(splits.train) & pictures_of(splits.validation), "both questions of a picture stay together"
    row = splits.test[0]
    assert row.text == f"question: What color is thing {int(row.id.partition('-')[2]) % 1000 % 4}? answer:"
    assert row.target == "red"
    assert row.answers == ("red",) * 6 + ("crimson",) * 3 + ("Red",), "as often as they were given"
    assert measure(task, splits.test, ["crimson"] * 12)["score"] == pytest.approx(90)
    assert read_picture(row.picture).size == (8, 8)
    assert Path(row.picture.path).is_relative_to(tmp_path / "cache")


def test_coco_captions_in_the_schema_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    (tmp_path / "coco-captions" / "pictures").mkdir(parents=True)
    lines = []
    for number in range(30):  # a local copy may name files, too
        (tmp_path / "coco-captions" / "pictures" / f"{number}.png").write_bytes(png(number))
        said = [f"A cat on mat {number}.", f"The cat sits on mat number {number}", f"A cat on mat {number}."]
        row = {"question_id": f"COCO_val2014_{number:012}.jpg", "image": f"pictures/{number}.png", "answer": said}
        lines.append(json.dumps(row | {"question": "Please describe it.", "id": number, "height": 8, "width": 8}))
    (tmp_path / "coco-captions" / "val.jsonl").write_text("\n".join(lines))
    task = get_task("coco-captions")
    splits = load_splits(task)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [21, 3, 6]
    row = splits.test[0]
    assert row.text == "caption:"
    assert len(row.answers) == 2
    assert row.target == row.answers[0]
    found = measure(task, splits.test, [row.answers[1] for row in splits.test])
    assert found["bleu4"] == pytest.approx(100)
    assert found["score"] == found["cider_d"] > 300


def test_the_librarys_pictures_are_read_as_bytes(tmp_path):
    from datasets import Dataset, Image

    folder = folder_of(tmp_path / "a", questions=1)
    rows = {
        "file": [str(folder / f"{number}.png") for number in range(60)],
        "question": ["is it?"] * 60,
        "answer": [("no", "yes")[number % 2] for number in range(60)],
    }
    Dataset.from_dict(rows).cast_column("file", Image()).save_to_disk(str(tmp_path / "saved"))
    from_files = load_splits(task_of(folder))
    from_saved = load_splits(task_of(tmp_path, source={"path": "saved"}))
    assert from_saved.data_hash != "", "read"
    assert pictures_of(from_saved.test) == pictures_of(from_files.test)
    assert {payload_of(row.picture) for row in from_saved.test} <= {png(number) for number in range(60)}


def test_pictures_of_a_repository_and_the_files_of_its_splits(tmp_path, monkeypatch):
    """The way to the hub, on a local repository: only the files that are named are read, as bytes."""
    from datasets import Dataset, Features, Image, Value

    monkeypatch.delenv("DEPT_DATA", raising=False)
    kinds = Features({"image": Image(), "question": Value("string"), "answers": Value("string")})
    for split, first in (("train", 0), ("validation", 100)):
        rows = {
            "image": [{"bytes": png(first + number), "path": None} for number in range(20)],
            "question": [f"what {number % 3}?" for number in range(20)],
            "answers": ["red" if number % 2 else "blue" for number in range(20)],
        }
        (tmp_path / "repo" / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, kinds).to_parquet(str(tmp_path / "repo" / "data" / f"{split}-00000-of-00001.parquet"))
    (tmp_path / "repo" / "data" / "test-00000-of-00001.parquet").write_bytes(b"no parquet: nobody reads it")
    source = {
        **{"kind": "hub", "repo": str(tmp_path / "repo"), "validation": "validation", "picture": "image"},
        **{"label": "answers", "files": {"train": "data/train-*", "validation": "data/validation-*"}},
    }
    block = {"kind": "generation", "template": "{question}", "rule": "large", "source": source}
    splits = load_splits(Task.build("local", block, "test"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 4, 20]
    assert {payload_of(row.picture) for row in splits.test} == {png(100 + number) for number in range(20)}
    with pytest.raises(InputError, match="files: name the files of each split"):
        Task.build("local", block | {"source": source | {"files": {"train": "data/train-*"}}}, "test")


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "../x/*", "data/../../x", "https://a/b", "hf://x", "~/x", "a::b", ""]
)
def test_files_of_a_split_lie_in_the_repository(pattern):
    source = {"kind": "hub", "repo": "a/b", "files": {"train": pattern}}
    with pytest.raises(InputError, match="no pattern of files inside the repository"):
        Task.build("t", {"kind": "generation", "source": source}, "test")
