"""What `dept tasks new` guesses from columns and numbers."""

import json
import re

import pytest
import yaml

from flows.planning.look_at_data import Column, flat
from flows.planning.new_task import guess_grid, new_block
from tasks.sources.hub import read_hub
from tasks.spec import Task


@pytest.mark.parametrize(
    ("numbers", "grid"),
    [
        ([1, 5, 3], (1, 5, 1)),
        ([0.03, 4.9], (0, 5, 0.2)),
        ([0, 100], (0, 100, 5)),
        ([-1.0, 1.0, 0.33], (-1, 1, 0.05)),
        ([0.001, 0.0053], (0.001, 0.0054, 0.0002)),
        ([2, 2], (2, 3, 1)),
        ([1e6, 3e6], (1e6, 3e6, 5e4)),
    ],
)
def test_a_guessed_grid_holds_all_numbers_on_a_round_step(numbers, grid):
    found = guess_grid([float(number) for number in numbers])
    assert (found["low"], found["high"], found["step"]) == pytest.approx(grid)
    block = {"kind": "regression", "grid": found, "source": {"kind": "file", "path": "x.csv"}}
    points = [float(point) for point in Task.build("x", block, "test").words]
    assert min(points) <= min(numbers) <= max(numbers) <= max(points)
    assert len(points) <= 41


def test_columns_and_structs():
    assert flat({"a": {"b": 1, "c": [{"d": 2}, {"d": 3}]}, "e": []}) == {"a.b": 1, "a.c.d": [2, 3], "e": []}
    assert Column("id", [1, 2, 3]).names_rows
    assert Column("code", ["x1", "x2", "x3"]).names_rows
    assert not Column("score", [0.5, 1.5, 2.5]).names_rows
    assert Column("score", ["1", "2.5", None]).numbers == [1.0, 2.5]
    assert Column("flag", [True, False]).numbers is None


@pytest.mark.parametrize(
    ("labels", "hidden"),
    [
        (["neg", "pos ", "pos", " neg"] * 20, [None, "", "NA", "pos", "null"] * 4),
        ([0, 1, -1, 1] * 20, [0, 1, -1, 1] * 5),
        ([0, 1, 0, 1] * 20, [0, -1, 1.0, None] * 5),
        ([0, 1, 0, 1] * 20, [-1, None, -1, -1]),
        ([0.5, 4.25, 3, 1.75] * 20, [-1, None, -1, -1]),
        ([["a b", "c"], ["d e f"], [], None] * 20, [["a b"], [""], None, []] * 5),
    ],
    ids=["words", "minus one is a label", "some hidden", "all hidden", "numbers", "lists"],
)
def test_new_counts_labels_as_they_will_be_read(tmp_path, monkeypatch, labels, hidden):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    for part, found in (("train", labels), ("validation", labels[:40]), ("test", hidden)):
        rows = [{"text": f"{part} line of text {i}", "label": label} for i, label in enumerate(found)]
        (tmp_path / "mine" / f"{part}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = new_block("someone/thing", name="mine")
    task = Task.build("mine", yaml.safe_load(said)["own_tasks"]["mine"], "test")
    told = re.search(r"rows of the hub with a label: (.*)", said)[1]
    read = {role: len(rows) for role, rows in read_hub(task).parts.items()}
    assert told == ", ".join(f"{read[role]} {role}" for role in sorted(read, key=["test", "train", "validation"].index))
    if task.kind == "classification":
        assert f"column label holds {len(task.labels)} labels in {sum(read.values())} rows" in said
    assert "Mend first" not in said
