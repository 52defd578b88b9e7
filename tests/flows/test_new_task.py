"""What `dept tasks new` guesses from columns and numbers."""

import pytest

from flows.planning.look_at_data import Column, flat
from flows.planning.new_task import guess_grid
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
