"""Labels that a data set of the library `datasets` keeps as numbers: a verbalizer may name numbers or classes."""

import datasets
import pytest

from infra.errors import InputError
from tasks.sources.classes import class_names, named
from tasks.sources.hub import read_hub
from tasks.sources.read import read_parts
from tasks.spec import Task

NAMES = ["negative", "so so", "positive"]


def rows(labels, names=NAMES):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(len(labels))], "label": labels}, features)


def task(verbalizer, **source):
    return Task.model_validate({"name": "t", "verbalizer": verbalizer, "source": source})


def saved(tmp_path, made):
    made.save_to_disk(str(tmp_path / "saved"))
    return {"kind": "file", "path": str(tmp_path / "saved")}


def parquet(tmp_path, made):
    made.to_parquet(str(tmp_path / "rows.parquet"))
    return {"kind": "file", "path": str(tmp_path / "rows.parquet")}


def labels_of(tmp_path, keep, verbalizer, made):
    found, unlabelled = read_parts(task(verbalizer, **keep(tmp_path, made)))
    return [record.label for record in found["train"]], unlabelled


@pytest.mark.parametrize("keep", [saved, parquet])
def test_names_of_classes_are_keys_as_well_as_their_numbers(tmp_path, keep):
    made = rows([2, 0, 1, 0])
    assert labels_of(tmp_path / "a", keep, {"negative": "bad", "so so": "meh", "positive": "good"}, made) == (
        ["positive", "negative", "so so", "negative"],
        0,
    )
    assert labels_of(tmp_path / "b", keep, {"0": "bad", "1": "meh", "2": "good"}, made) == (["2", "0", "1", "0"], 0)
    assert labels_of(tmp_path / "c", keep, {0: "bad", "so so": "meh", "2": "good"}, made)[0] == ["2", "0", "so so", "0"]


def test_names_that_are_numbers_are_names_where_no_class_has_that_number(tmp_path):
    made = rows([0, 4, 2], names=["1", "2", "3", "4", "5"])
    stars = {str(i): f"{i} stars" for i in range(1, 6)}
    assert labels_of(tmp_path / "a", saved, stars, made)[0] == ["1", "5", "3"]
    counted = {str(i): f"{i} more" for i in range(5)}
    assert labels_of(tmp_path / "b", saved, counted, made)[0] == ["0", "4", "2"]


def test_hidden_labels_stay_hidden_and_unknown_ones_are_named(tmp_path):
    made = rows([-1, 0, 2])
    verbalizer = {"negative": "bad", "positive": "good"}
    assert labels_of(tmp_path / "a", saved, verbalizer, made) == (["negative", "positive"], 1)
    with pytest.raises(InputError, match=r"label 'so so' is not in the verbalizer of task t \(negative, positive\)"):
        labels_of(tmp_path / "b", saved, verbalizer, rows([0, 1]))


def test_a_local_copy_of_the_hub_may_be_named_too(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    rows([2, 0, -1]).to_parquet(str(tmp_path / "t" / "train.parquet"))
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    found = read_hub(task({"negative": "bad", "positive": "good"}, kind="hub", repo="owner/name"))
    assert ([record.label for record in found.parts["train"]], found.unlabelled) == (["positive", "negative"], 1)


def test_names_are_found_in_structs_and_nowhere_else(tmp_path):
    told = {"a": {"b": {"names": ["x", "y"], "_type": "ClassLabel"}}, "t": {"dtype": "string", "_type": "Value"}}
    assert named(told) == {"a.b": ["x", "y"]}
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    assert class_names(tmp_path / "rows.csv") == class_names(tmp_path / "cut.parquet") == class_names(tmp_path) == {}
