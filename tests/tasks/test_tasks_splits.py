"""Cleaning, split sizes, shots and subsets."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from tasks.catalogue import get_task
from tasks.draws import few_shot, subset
from tasks.formatting import Example, Record
from tasks.load import load_splits
from tasks.spec import Task
from tasks.splits import Splits, make_splits


def task(n_labels):
    verbalizer = {f"c{i}": f"word{i}" for i in range(n_labels)}
    source = {"kind": "file", "path": "x.csv"}
    return Task.model_validate({"name": "t", "template": "{text}", "verbalizer": verbalizer, "source": source})


def records(counts):
    return [Record(f"{c}-{i}", {"text": f"class {c} row {i}"}, f"c{c}") for c, n in enumerate(counts) for i in range(n)]


def pool(counts):
    rows = tuple(Example(f"{c}-{i}", f"class {c} row {i}", c) for c, n in enumerate(counts) for i in range(n))
    return Splits(train=rows, validation=(), test=(), data_hash="", dropped={})


def test_duplicates_and_conflicts():
    rows = records([20, 20])
    extra = [
        Record("a", {"text": "CLASS  0 row\t3"}, "c0"),  # the same text in another dress
        Record("b", {"text": "class 1 row 5"}, "c0"),  # the same text, another label
        Record("c", {"text": "class 1 ROW 5"}, "c1"),
    ]
    splits = make_splits(task(2), rows + extra, neutral=4)
    assert splits.dropped == {"neutral": 4, "duplicate": 1, "conflicting": 3}
    ids = {row.id for part in (splits.train, splits.validation, splits.test) for row in part}
    assert ids == {record.id for record in rows} - {"1-5"}


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([3, 3], (2, 2, 2)),
        ([50, 50], (70, 10, 20)),
        ([400, 499], (899 - 89 - 179, 89, 179)),
        ([400, 500], (510, 90, 300)),
        ([2000, 1000], (2100, 300, 600)),
        ([6000, 2000], (6500, 500, 1000)),
        ([3, 500], (503 - 50 - 100, 50, 100)),
    ],
)
def test_sizes(counts, sizes):
    splits = make_splits(task(len(counts)), records(counts))
    tested = sizes[2] if sizes[2] <= 300 else max(300, sizes[2] // 2)
    judging = 0 if sum(sizes) < 60 else max(12, sum(sizes) // 10, sizes[2] - tested)
    from_training = max(0, judging - (sizes[2] - tested))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (sizes[0] - from_training, sizes[1], tested)
    assert len(splits.judge) == judging
    for part in (splits.train, splits.validation, splits.test):
        assert {row.label for row in part} == set(range(len(counts)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=6), st.randoms())
def test_splits_are_a_partition_that_ignores_order(counts, rng):
    rows = records(counts)
    splits = make_splits(task(len(counts)), rows)
    ids = [row.id for part in splits.parts().values() for row in part]
    assert sorted(ids) == sorted(record.id for record in rows)
    for part in (splits.train, splits.validation, splits.test):
        assert {row.label for row in part} == set(range(len(counts)))
    assert make_splits(task(len(counts)), rng.sample(rows, len(rows))) == splits


def test_data_hash_sees_every_change():
    rows = records([20, 20])
    base = make_splits(task(2), rows).data_hash
    renamed = [Record("new", rows[0].fields, rows[0].label), *rows[1:]]
    relabelled = [Record(rows[0].id, rows[0].fields, "c1"), *rows[1:]]
    reworded = [Record(rows[0].id, {"text": "another"}, "c0"), *rows[1:]]
    words = task(2).model_copy(update={"verbalizer": (("c0", "word0"), ("c1", "other"))})
    template = task(2).model_copy(update={"template": "T: {text}"})
    hashes = [make_splits(task(2), changed).data_hash for changed in (renamed, relabelled, reworded, rows[1:])]
    metric = task(2).model_copy(update={"metrics": ("macro_f1", "accuracy")})  # ranks by another one
    hashes += [make_splits(changed, rows).data_hash for changed in (words, template, metric)]
    assert len({base, *hashes}) == 8


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_shots(n_labels, k, seed, rng):
    splits = pool([16 + 5 * label for label in range(n_labels)])
    needed = 2 * -(-k // n_labels)
    if needed > 16:
        return
    shots, validation = few_shot(splits, k, seed, n_labels)
    assert len(shots) == len(validation) == k
    assert not {row.id for row in shots} & {row.id for row in validation}
    assert {row.id for row in shots + validation} <= {row.id for row in splits.train}
    for rows in (shots, validation, shots + validation):
        counts = [sum(row.label == label for row in rows) for label in range(n_labels)]
        assert max(counts) - min(counts) <= 1
    shuffled = Splits(tuple(rng.sample(splits.train, len(splits.train))), (), (), "", {})
    assert few_shot(shuffled, k, seed, n_labels) == (shots, validation)
    if k > 1:
        fewer, _ = few_shot(splits, k - 1, seed, n_labels)
        assert {row.id for row in fewer} < {row.id for row in shots}


def test_seeds_draw_other_rows_and_other_classes_for_the_rest():
    splits = pool([50, 50, 50])
    draws = {few_shot(splits, 9, seed, 3) for seed in range(10)}
    assert len(draws) == 10
    extra = {few_shot(splits, 1, seed, 3)[0][0].label for seed in range(20)}
    assert extra == {0, 1, 2}


def test_the_draw_is_the_same_on_every_machine():
    shots, validation = few_shot(pool([20, 20]), 4, 7, 2)
    assert [row.id for row in shots] == ["1-1", "0-14", "0-2", "1-10"]
    assert [row.id for row in validation] == ["0-11", "1-11", "1-5", "0-3"]


def test_real_shots_come_from_no_test_row():
    splits = load_splits(get_task("trec-coarse"))
    held_out = {row.id for row in splits.test + splits.validation}
    for seed in range(3):
        shots, validation = few_shot(splits, 32, seed, 6)
        assert not {row.id for row in shots + validation} & held_out
        assert set(Counter(row.label for row in shots).values()) == {5, 6}


@pytest.mark.parametrize(
    ("counts", "k", "message"),
    [
        ([10, 10], 0, "at least 1"),
        ([10, 10], -3, "at least 1"),
        ([10, 10], 11, "need 22 training rows, but there are 20; use k <= 10"),
        ([4, 100], 16, "need 16 rows of class 0, but the training pool has 4; use k <= 4"),
        ([10, 0], 4, "class 1 has no row"),
    ],
)
def test_shots_that_cannot_be_drawn(counts, k, message):
    with pytest.raises(InputError, match=message):
        few_shot(pool(counts), k, 0, len(counts))


def test_the_proposed_k_can_be_drawn():
    for counts in ([4, 100], [5, 9, 7], [1, 30], [3, 3]):
        with pytest.raises(InputError) as caught:
            few_shot(pool(counts), 1000, 0, len(counts))
        few_shot(pool(counts), int(str(caught.value).split("k <= ")[1]), 0, len(counts))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 120), st.integers(0, 3))
def test_subset(counts, n, seed):
    rows = pool(counts).train
    chosen = subset(rows, n, seed)
    assert len({row.id for row in chosen}) == len(chosen) == min(n, len(rows))
    assert set(chosen) <= set(rows)
    taken = Counter(row.label for row in chosen)
    if n >= len(counts):
        assert set(taken) == set(range(len(counts)))
    for label, count in enumerate(counts):  # its share, but for rounding and the one row each class gets
        assert abs(taken[label] - min(n, len(rows)) * count / len(rows)) < len(counts)
    assert subset(random.Random(seed).sample(rows, len(rows)), n, seed) == chosen


def test_subset_of_real_test_rows_and_bad_sizes():
    test = load_splits(get_task("sms-spam")).test
    chosen = subset(test, 200, 0)
    assert Counter(row.label for row in chosen) == {0: 175, 1: 25}  # 791 : 111
    assert subset(test, 200, 1) != chosen
    for rows, n in ((test, 0), ((), 5)):
        with pytest.raises(InputError, match="cannot take"):
            subset(rows, n, 0)


def test_shots_per_class():
    splits = pool([20, 30, 9])
    shots, validation = few_shot(splits, 4, 0, 3, per_class=True)
    assert Counter(row.label for row in shots) == Counter(row.label for row in validation) == {0: 4, 1: 4, 2: 4}
    assert few_shot(splits, 12, 0, 3) == (shots, validation)
    with pytest.raises(InputError, match=r"k=5 shots of each class .* use k <= 4"):
        few_shot(splits, 5, 0, 3, per_class=True)
    with pytest.raises(InputError, match=r"k=50 shots of each class .* need 300 .* use k <= 4"):
        few_shot(splits, 50, 0, 3, per_class=True)


def test_shots_without_classes():
    rows = tuple(Example(str(i), f"row {i}", i % 7) for i in range(40))  # a regression: labels are no classes
    shots, validation = few_shot(Splits(rows, (), (), "", {}), 16, 0, 1)
    assert len({row.id for row in shots + validation}) == 32
    with pytest.raises(InputError, match="use k <= 20"):
        few_shot(Splits(rows, (), (), "", {}), 21, 0, 1)


def test_equal_rows_are_drawn_once():
    rows = tuple(Example(f"{i}", f"row {i // 2}" if i % 2 else f"ROW  {i // 2}", 0) for i in range(16))
    for seed in range(5):
        shots, validation = few_shot(Splits(rows, (), (), "", {}), 4, seed, 1)
        assert len({row.text.casefold().split()[1] for row in shots + validation}) == 8
    with pytest.raises(InputError, match="there are 8"):
        few_shot(Splits(rows, (), (), "", {}), 5, 0, 1)
