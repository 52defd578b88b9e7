"""Tasks whose rows have pictures: read from files, wheels and the hub, parted by picture, sent through a store."""

import csv
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
from tasks.formatting import Example
from tasks.leakage import guard
from tasks.load import load_splits
from tasks.metrics import measure
from tasks.picture_reader import read_picture
from tasks.pictures import Picture, payload_of
from tasks.rows_file import read_rows, write_pictures, write_rows
from tasks.spec import Task
from tests.tasks.picture_cases import png

EASY = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="the wheel easy-vqa is not installed (make test installs it)"
)
BLOCK = {
    "template": "Question: {question}\nAnswer:",
    "verbalizer": {"no": "no", "yes": "yes"},
    "source": {"kind": "file", "path": "rows.csv", "picture": "file", "label": "answer"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


def folder_of(path, pictures=60, questions=3, name="rows.csv", first=0):
    """A folder of pictures with a csv: of each picture several questions, which others are asked about too."""
    path.mkdir(exist_ok=True)
    with (path / name).open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("file", "question", "answer"))
        for number in range(first, first + pictures):
            (path / f"{number}.png").write_bytes(png(number))
            for ask in range(questions):
                out.writerow((f"{number}.png", f"is it kind {ask}?", ("no", "yes")[(number + ask) % 2]))
    return path


def task_of(folder, **changes):
    source = BLOCK["source"] | changes.pop("source", {})
    return Task.build("mine", BLOCK | changes | {"source": source}, "test").rooted(folder)


def pictures_of(rows):
    return {row.picture.sha256 for row in rows}


# --- splits


def test_the_same_question_about_another_picture_is_another_row(tmp_path):
    splits = load_splits(task_of(folder_of(tmp_path / "a")))
    parts = [part for part in splits.parts().values() if part]
    rows = [row for part in parts for row in part]
    assert len(rows) == 180
    assert len({row.id for row in rows}) == 180
    assert splits.dropped == {"neutral": 0, "duplicate": 0, "conflicting": 0}
    assert len({row.text for row in rows}) == 3
    assert len(splits.distinct()) == len(splits.train)


def test_no_picture_stands_in_two_parts_and_each_part_has_all_labels(tmp_path):
    splits = load_splits(task_of(folder_of(tmp_path / "a")))
    parts = {name: part for name, part in splits.parts().items() if part}
    assert set(parts) == {"train", "validation", "test", "judge"}
    every = [picture for part in parts.values() for picture in pictures_of(part)]
    assert len(every) == len(set(every)) == 60
    for part in parts.values():
        assert {row.label for row in part} == {0, 1}
    assert 36 <= len(splits.test) <= 40  # a fifth, and what is left of the last picture
    assert 18 <= len(splits.validation) <= 21
    shots, checks = few_shot(splits, 8, 0, 2)
    assert len({row.content for row in (*shots, *checks)}) == 16


def test_the_order_of_the_file_does_not_matter(tmp_path):
    folder = folder_of(tmp_path / "a")
    before = load_splits(task_of(folder))
    head, *rows = (folder / "rows.csv").read_text().splitlines()
    (folder / "rows.csv").write_text("\n".join([head, *reversed(rows)]) + "\n")
    after = load_splits(task_of(folder))
    assert after is not before
    assert after.data_hash == before.data_hash
    assert after.parts() == before.parts()


def test_another_picture_or_a_hidden_one_is_another_hash(tmp_path):
    folder = folder_of(tmp_path / "a")
    before = load_splits(task_of(folder))
    hidden = load_splits(task_of(folder, picture="hidden"))
    assert hidden.data_hash != before.data_hash
    assert hidden.parts() == before.parts(), "the same rows: only what is read of them differs"
    (folder / "7.png").write_bytes(png(1007))
    (folder / "rows.csv").write_text((folder / "rows.csv").read_text() + "\n")
    assert load_splits(task_of(folder)).data_hash != before.data_hash


def test_files_of_their_own_lose_training_rows_of_pictures_held_out(tmp_path):
    folder = folder_of(tmp_path / "a", name="train.csv")
    folder_of(folder, pictures=10, questions=1, name="test.csv", first=55)  # 5 of them are in train.csv
    splits = load_splits(task_of(folder, source={"path": "train.csv", "test": "test.csv"}))
    assert len(splits.test) == 10
    assert not pictures_of(splits.test) & pictures_of((*splits.train, *splits.validation))
    assert splits.dropped["leaked"] == 15


def test_a_source_loses_rows_about_pictures_that_a_target_holds_out():
    def row(number, ask, picture):
        return Example(str(number), f"question {ask}", 0, key=f"{ask}{picture}", picture=Picture(picture, "x"))

    rows = [row(1, "a", "p"), row(2, "b", "p"), row(3, "a", "q")]
    kept, dropped = guard(rows, [row(9, "c", "p")])
    assert ([one.id for one in kept], dropped) == (["3"], 2)
    words = Example("4", "question a", 0, key="ka")
    assert guard([words], rows) == ([words], 0), "a question without a picture is no row of these"


def test_too_few_pictures(tmp_path):
    with pytest.raises(InputError, match=r"task mine: too few pictures with rows of label .*Remedy: more pictures"):
        load_splits(task_of(folder_of(tmp_path / "a", pictures=2, questions=30)))


def test_regression_and_captions(tmp_path):
    folder = folder_of(tmp_path / "a", questions=1)
    rows = [(f"{number}.png", number / 10, f"a picture of kind {number}") for number in range(60)]
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "score", "caption"), *rows])
    grid = {"low": 0, "high": 6, "step": 0.5}
    scored = load_splits(
        Task.build(
            "score",
            {
                **{"kind": "regression", "grid": grid, "template": "Score:"},
                "source": BLOCK["source"] | {"path": str(folder / "rows.csv"), "label": "score"},
            },
            "test",
        )
    )
    assert {row.text for row in scored.train} == {"Score:"}
    assert len(scored.distinct()) == len(scored.train) > 30
    told = Task.build(
        "told",
        {
            **{"kind": "generation", "template": "Caption:", "metrics": ["cider_d", "bleu4"]},
            "source": BLOCK["source"] | {"path": str(folder / "rows.csv"), "label": "caption"},
        },
        "test",
    )
    rows = load_splits(told).test
    assert measure(told, rows, [row.target for row in rows])["bleu4"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"picture": "hidden", "source": {"picture": None}}, "picture: the rows have none"),
        ({"source": {"picture": None, "pictures": "x"}}, "pictures: needs picture"),
        ({"template": "Answer:", "source": {"picture": None}}, "template must contain a field"),
        ({"metrics": ["cider_d"]}, "cider_d twice or not for classification"),
    ],
)
def test_blocks_that_say_what_cannot_be(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        task_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda a: (a / "7.png").unlink(), r"rows\.csv, line \d+: .*7\.png: no such file"),
        (lambda a: (a / "7.png").write_bytes(png()[:50]), r"7\.png: a damaged or truncated picture.*Remedy"),
        (lambda a: [(a / f"{i}.png").write_bytes(b"no %d" % i) for i in (3, 4, 5)], r"not a picture.* \(and 2 more"),
        (lambda a: (a / "rows.csv").write_text("file,question,answer\n../x.png,a,no\n"), "leads out of"),
        (lambda a: (a / "rows.csv").write_text("image,question,answer\nx.png,a,no\n"), "no column 'file'"),
    ],
)
def test_bad_pictures_end_in_one_line(tmp_path, damage, said):
    folder = folder_of(tmp_path / "a")
    damage(folder)
    with pytest.raises(InputError, match=said) as caught:
        load_splits(task_of(folder))
    assert "\n" not in str(caught.value)


# --- through the store, and in memory


def test_rows_travel_with_their_pictures(tmp_path):
    folder = folder_of(tmp_path / "a")
    task = task_of(folder)
    splits = load_splits(task)
    pack = write_pictures(splits, tmp_path / "pack")
    digest = write_rows(task, splits, tmp_path / "rows", pack)
    assert (tmp_path / "pack").stat().st_size == sum(len(png(number)) for number in range(60)), "each picture once"
    for path in folder.iterdir():
        path.unlink()
    asked = []

    def fetch(sha256):
        asked.append(sha256)
        return tmp_path / "pack"

    back = read_rows(task, tmp_path / "rows", digest, fetch)
    assert asked == [pack.sha256]
    assert back.parts() == splits.parts()
    assert back.data_hash == splits.data_hash
    assert {payload_of(row.picture) for part in back.parts().values() for row in part} == {png(i) for i in range(60)}
    assert write_rows(task, back, tmp_path / "again", write_pictures(back, tmp_path / "pack2")) == digest
    (tmp_path / "pack").write_bytes(b"x" + (tmp_path / "pack").read_bytes())
    with pytest.raises(InputError, match="has changed"):
        read_picture(back.train[0].picture)
    with pytest.raises(InputError, match="rows of task mine have pictures"):
        read_rows(task, tmp_path / "rows", digest)


def test_rows_without_pictures_are_written_as_before(tmp_path):
    task = get_task("amazon-polarity")
    splits = load_splits(task)
    assert write_pictures(splits, tmp_path / "pack") is None
    assert not (tmp_path / "pack").exists()
    write_rows(task, splits, tmp_path / "rows")
    head, row = (json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()[:2])
    assert set(head) == {"format", "task", "data_hash", "dropped", "whole"}
    assert head["format"] == 1
    assert "picture" not in row


# --- wheel and hub


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
    # A small open task without its pictures: the same rows, another task.
    blind = load_splits(get_task("easy-vqa-open-question-only"))
    assert blind.parts() == found["open"].parts()
    assert blind.data_hash != found["open"].data_hash


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


def test_rows_that_judge_have_pictures_of_their_own(tmp_path):
    """Of more than 300 test rows the upper half judges champions."""
    splits = load_splits(task_of(folder_of(tmp_path / "a", pictures=700, questions=4)))
    assert 300 <= len(splits.test) <= 310
    assert 250 <= len(splits.judge) <= 330
    every = [picture for part in splits.parts().values() for picture in pictures_of(part)]
    assert len(every) == len(set(every)) == 700
    counts = Counter(row.label for row in splits.test)
    assert abs(counts[0] - counts[1]) <= 4
