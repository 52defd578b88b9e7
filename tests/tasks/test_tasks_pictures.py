"""Tasks whose rows have pictures: read from files, parted by picture, written for a store."""

import csv
import json
from collections import Counter

import pytest

from infra.errors import InputError
from tasks.catalogue import get_task
from tasks.data_hash import data_hash
from tasks.draws import few_shot
from tasks.formatting import Example, Record
from tasks.leakage import guard
from tasks.load import load_splits
from tasks.metrics import measure
from tasks.picture_reader import read_picture
from tasks.pictures import Picture, payload_of
from tasks.rows_file import read_rows, write_pictures, write_rows
from tasks.spec import Task
from tasks.splits import make_hub_splits
from tests.tasks.picture_cases import BLOCK, folder_of, pictures_of, png, task_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


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


def test_pictures_count_where_rows_are_named_by_their_place(tmp_path):
    rows = [Example("train-1", "text", 0, "no", picture=Picture(name, "anywhere")) for name in ("a", "b")]
    task = task_of(tmp_path)
    assert data_hash(task, {"train": (rows[0],)}) != data_hash(task, {"train": (rows[1],)})


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


def test_a_table_with_a_row_for_each_answer(tmp_path):
    """As captions and the answers of several people are given out: they become one row of the picture."""
    folder = folder_of(tmp_path / "a", questions=1)
    lines = [(f"{number}.png", said) for said in ("a cat", "a cat", "one cat", "a dog") for number in range(60)]
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "said"), *lines])
    source = BLOCK["source"] | {"path": str(folder / "rows.csv"), "label": "said"}
    for metric, answers in (("cider_d", 3), ("vqa_accuracy", 4)):
        block = {"kind": "generation", "template": "Caption:", "metrics": [metric], "source": source}
        splits = load_splits(Task.build("told", block, "test"))
        rows = [row for part in splits.parts().values() for row in part]
        assert len(rows) == 60
        assert {len(row.answers) for row in rows} == {answers}
        assert not splits.dropped["conflicting"]
    assert {row.target for row in rows} == {"a cat"}, "what most people said"


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


def test_rows_that_judge_have_pictures_of_their_own(tmp_path):
    """Of more than 300 test rows the upper half judges champions."""
    splits = load_splits(task_of(folder_of(tmp_path / "a", pictures=700, questions=4)))
    assert 300 <= len(splits.test) <= 310
    assert 250 <= len(splits.judge) <= 330
    every = [picture for part in splits.parts().values() for picture in pictures_of(part)]
    assert len(every) == len(set(every)) == 700
    counts = Counter(row.label for row in splits.test)
    assert abs(counts[0] - counts[1]) <= 4


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


@pytest.mark.parametrize("rule", ["large", "given"])
def test_no_picture_stands_in_validation_and_test(rule):
    """The hub's own splits may share pictures, whatever is asked about them."""

    def row(number, picture):
        seen = Picture("b" * 60 + f"{picture:04d}", "here")
        return Record(f"{number}", {"text": f"question {number}?"}, "yes", ("yes",), picture=seen)

    source = {"kind": "hub", "repo": "a/b", "validation": "validation", "picture": "image", "label": "answer"}
    source |= {"test": "test"} if rule == "given" else {}
    block = {"kind": "generation", "template": "{text}", "rule": rule, "source": source}
    rows = {"train": [row(number, number // 2) for number in range(100)]}
    rows["validation"] = [row(200 + number, 45 + number // 2) for number in range(30)]  # 45 to 49 are in both
    rows["test"] = [row(300 + number, 58 + number // 2) for number in range(10)]  # 58 and 59 stand in validation
    if rule == "large":
        del rows["test"]
    splits = make_hub_splits(Task.build("t", block, "test"), rows, 0)
    parts = [{one.picture.sha256 for one in part} for part in (splits.train, splits.validation, splits.test)]
    assert len(set().union(*parts)) == sum(map(len, parts))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == (
        [72, 18, 30] if rule == "large" else [90, 26, 10]
    )
    assert splits.dropped["leaked"] == (10 if rule == "large" else 14)
