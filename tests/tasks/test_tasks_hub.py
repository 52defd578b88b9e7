"""Rows in the hub's schema from local copies, and the split rules of the paper."""

import json

import pytest

from infra.errors import InputError
from tasks.catalogue import get_task
from tasks.draws import few_shot
from tasks.load import load_splits
from tasks.sources.hub import read_hub
from tasks.spec import Task


def task(rule="small", source=None, **changes):
    hub = {"kind": "hub", "repo": "owner/name", "validation": "validation", **(source or {})}
    body = {"name": "t", "template": "{text}", "verbalizer": {"0": "no", "1": "yes"}, "rule": rule, "source": hub}
    return Task.model_validate({**body, **changes})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    (tmp_path / "t").mkdir()

    def write(**splits):
        for split, rows in splits.items():
            (tmp_path / "t" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "t"

    return write


def rows(split, n):
    return [{"text": f"{split} {i}", "label": i % 2, "idx": i} for i in range(n)]


def ids(examples):
    return {row.id for row in examples}


def test_small_halves_the_validation_split(folder):
    folder(train=rows("a", 30), validation=rows("b", 11))
    splits = load_splits(task())
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 5, 6]
    assert ids(splits.train) == {f"train-{i}" for i in range(30)}
    assert ids(splits.validation) | ids(splits.test) == {f"validation-{i}" for i in range(11)}
    assert load_splits(task()) is splits


def test_the_length_of_an_own_text_is_part_of_the_question(folder):
    folder(train=rows("a", 30), validation=rows("b", 11))
    found = {load_splits(task(max_length=n)).data_hash for n in (None, 8, 9)}
    found |= {load_splits(task(cut=cut)).data_hash for cut in ("start", "text")}
    assert len(found) == 5


def test_the_length_of_a_catalogue_text_is_part_of_its_version():
    shipped = get_task("trec-fine")
    found = [load_splits(shipped.model_copy(update={"max_length": n})).data_hash[:8] for n in (None, 8)]
    assert found[0] == "b9b2d8c0"
    assert found[1] != found[0]


def test_large_carves_a_thousand_training_rows(folder):
    folder(train=rows("a", 5500), validation=rows("b", 11))
    splits = load_splits(task("large"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [4500, 1000, 11]
    assert ids(splits.test) == {f"validation-{i}" for i in range(11)}
    assert not ids(splits.train) & ids(splits.validation)
    folder(train=rows("a", 20))
    assert len(load_splits(task("large")).validation) == 4  # a fifth of few rows; the changed file is read again


def test_given_takes_the_splits_as_they_are(folder):
    folder(train=rows("a", 6), validation=rows("b", 3), held=rows("c", 2))
    splits = load_splits(task("given", {"test": "held"}))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 3, 2]
    assert ids(splits.test) == {"test-0", "test-1"}


def test_hash_pools_all_splits(folder):
    folder(train=rows("a", 30), validation=rows("b", 30))
    splits = load_splits(task("hash"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [42, 6, 12]
    assert {row.id.partition("-")[0] for row in splits.test} == {"train", "validation"}


def test_training_rows_that_are_held_out_are_dropped_and_counted(folder):
    leak = {"text": " B  3", "label": 0, "idx": 99}
    folder(train=[*rows("a", 30), leak], validation=[*rows("b", 11), {"text": "hidden", "label": -1, "idx": 12}])
    splits = load_splits(task())
    assert splits.dropped == {"unlabelled": 1, "leaked": 1}
    assert len(splits.train) == 30
    carved = [*rows("a", 30), {"text": "A 3", "label": 1, "idx": 98}]
    folder(train=carved, validation=rows("b", 11))
    for _ in range(2):  # equal rows never stand on both sides of the cut
        splits = load_splits(task("large"))
        texts = [{row.text.casefold() for row in part} for part in (splits.train, splits.validation)]
        assert not texts[0] & texts[1]


def test_columns_where_and_ids(folder):
    def row(i, subset):
        return {"q": {"body": f"why {i}"}, "other": None, "gold": {"text": ["x", " x", "y"]}, "set": subset, "key": i}

    folder(train=[row(i, "A" if i % 2 else "B") for i in range(20)], validation=[row(i, "A") for i in range(50, 56)])
    source = {"columns": {"text": "q.body"}, "label": "gold.text", "where": {"set": "A"}, "id": "key"}
    own = task(source=source, kind="qa", verbalizer={}, template="{text} {other}")
    splits = load_splits(own)
    assert ids(splits.train) == {f"train-{i}" for i in range(1, 20, 2)}
    row = splits.train[0]
    assert (row.label, row.target, row.answers) == (0, "x", ("x", "y"))
    assert sum(map(len, read_hub(own).parts.values())) == 16
    shots, validation = few_shot(splits, 4, 0, own.strata)
    assert len(ids(shots) | ids(validation)) == 8


def test_record_trains_on_each_answer_and_keeps_questions_whole(folder):
    def row(i):
        entities = ["Ann", "Bo", "Cy"]
        return {"passage": f"p {i}", "query": "@placeholder", "entities": entities, "answers": ["Ann", "Bo"], "idx": i}

    folder(train=[row(i) for i in range(10)], validation=[row(i) for i in range(20, 23)])
    own = task(
        "large",
        {"label": "answers", "id": "idx"},
        kind="qa",
        verbalizer={},
        convert="record",
        template="{query} {entities} {passage}",
    )
    splits = load_splits(own)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 2, 3)
    assert {row.target for row in splits.train} == {"Ann", "Bo"}
    assert {row.answers for part in (splits.train, splits.validation, splits.test) for row in part} == {("Ann", "Bo")}
    shots, validation = few_shot(splits, 4, 0, 1)  # 8 questions: each is drawn once, on one side
    assert len({row.text for row in shots + validation}) == 8


def test_questions_stay_whole(folder):
    def row(i):
        idx = {"paragraph": 0, "question": i // 3, "answer": i}
        return {"paragraph": "p", "question": f"q {i // 3}", "answer": f"a {i}", "idx": idx, "label": i % 2}

    folder(train=[row(i) for i in range(12)], validation=[row(i) for i in range(30, 60)])
    own = task(convert="multirc", template="{question} {answer} {paragraph}", metrics=["multirc_f1", "multirc_em"])
    splits = load_splits(own)
    assert (len(splits.validation), len(splits.test)) == (15, 15)
    assert not {row.group for row in splits.validation} & {row.group for row in splits.test}


def test_parquet_copies_and_repeated_ids(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder(train=rows("a", 4))
    table = pa.table({"text": ["x", "y", "z"], "label": [0, 1, 1], "idx": [7, 7, 8]})
    parquet.write_table(table, path / "validation.parquet")
    found = read_hub(task(source={"id": "idx"})).parts["validation"]
    assert [(r.id, r.fields["text"], r.label) for r in found] == [
        ("validation-7", "x", "0"),
        ("validation-7.2", "y", "1"),
        ("validation-8", "z", "1"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"label": "gold"}}, "train.jsonl, line 1: no column 'gold'; columns there: 'text', 'label', 'idx'"),
        ({"source": {"columns": {"text": "a.b"}}}, "no column 'a.b'"),
        ({"source": {"id": "key"}}, "no column 'key'"),
        ({"source": {"where": {"subset": "x"}}}, "no column 'subset'"),
        ({"source": {"where": {"idx": 99}}}, "split 'train' has no row with a label where idx is 99"),
        ({"source": {"train": "none"}}, "no none.jsonl or none.parquet"),
        ({"convert": "record"}, "no column 'passage'"),
        ({"verbalizer": {"0": "no", "2": "two"}}, "line 2: label '1' is not in the verbalizer"),
        ({"verbalizer": {"0": "no", "1": "yes", "2": "two"}}, "label '2' has no training row"),
        ({"kind": "qa", "verbalizer": {}}, "the answer ('label') is neither a string nor a list"),
    ],
)
def test_bad_rows(folder, changes, message):
    folder(train=rows("a", 6), validation=rows("b", 6))
    with pytest.raises(InputError) as caught:
        load_splits(task(**changes))
    assert message in str(caught.value)


def test_a_hub_out_of_reach_names_the_remedy(monkeypatch):
    monkeypatch.delenv("DEPT_DATA", raising=False)
    with pytest.raises(InputError, match=r"cannot load owner/name \(train.*DEPT_DATA.*t/train\.jsonl"):
        load_splits(task())


def test_rows_of_the_hubs_client(monkeypatch, tmp_path):
    """A data set on disk stands in for the hub: the client's own types and its selection of columns and rows."""
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "answers": {"text": datasets.List(datasets.Value("string"))},
            "subset": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict(
        {
            "text": [f"row {i}" for i in range(12)],
            "label": [i % 2 for i in range(12)],
            "answers": [{"text": ["a", "b"]}] * 12,
            "subset": ["A", "A", "B"] * 4,
        },
        features=features,
    )
    monkeypatch.delenv("DEPT_DATA", raising=False)
    asked = []

    def load(repo, config, revision, split):
        asked.append((repo, config, revision, split))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load)
    own = task(source={"where": {"subset": "A"}, "config": "c", "revision": "r"})
    found = read_hub(own).parts["train"]
    assert [(r.id, r.fields["text"], r.label) for r in found[:3]] == [
        ("train-0", "row 0", "0"),
        ("train-1", "row 1", "1"),
        ("train-2", "row 3", "1"),
    ]
    assert asked == [("owner/name", "c", "r", "train"), ("owner/name", "c", "r", "validation")]
    answers = read_hub(task(source={"label": "answers.text"}, kind="qa", verbalizer={})).parts["train"]
    assert {r.answers for r in answers} == {("a", "b")}
    with pytest.raises(InputError, match="cannot load"):
        read_hub(task(source={"columns": {"text": "body"}}))
