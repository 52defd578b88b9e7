"""Rows that judge champions, samples that stay what they were, and draws that cannot be made."""

import hashlib
import time

import pytest

from infra.errors import InputError
from tasks.catalogue import get_task
from tasks.draws import Draw, check_draw, few_shot, subset
from tasks.formatting import Example, Record
from tasks.load import load_splits
from tasks.order import divided, sample
from tasks.spec import Task
from tasks.splits import Splits, make_splits

# sha256 of the ids of subset(test, n, 0) before any row became a judge: published numbers were measured on these.
BEFORE = {
    "amazon-polarity": ("edce87e6e838", "2692b92c1ae5"),
    "movie-polarity": ("34090040b6f0", "a037dcb239d4"),
    "tweet-polarity": ("0e97a8fb7cb2", "c0225ab3df80"),
    "nyt-polarity": ("12dbfbe384ce", "d8f07fbc0b5c"),
    "sms-spam": ("d02908509afd", "63f8e6b5dfa6"),
    "trec-coarse": ("898b8ac2eebd", "a3810d8312d6"),
    "trec-fine": ("944b16e8aa11", "a339ece5802c"),
}


def pool(counts):
    return tuple(Example(f"{c}-{i}", f"class {c} row {i}", c) for c, n in enumerate(counts) for i in range(n))


def drawn(counts, labels=()):
    return Splits(train=pool(counts), validation=(), test=(), data_hash="", dropped={}, labels=labels)


@pytest.mark.parametrize("name", BEFORE)
def test_samples_of_test_rows_are_those_of_the_whole(name):
    splits = load_splits(get_task(name))
    for n, digest in zip((200, 300), BEFORE[name], strict=True):
        ids = "\n".join(row.id for row in subset(splits.test, n, 0))
        assert hashlib.sha256(ids.encode()).hexdigest()[:12] == digest
    assert len(splits.test) >= 300
    assert not {row.id for row in splits.judge} & {
        row.id for part in (splits.train, splits.validation, splits.test) for row in part
    }


@pytest.mark.parametrize("counts", [[500, 500], [701, 299], [333, 333, 335], [900, 50, 7, 43], [1000]])
def test_every_sample_stays_within_the_test_rows(counts):
    whole = pool(counts)
    part, others = divided(whole, sum(counts) // 2)
    assert len(part) + len(others) == len(whole)
    assert abs(len(part) - sum(counts) // 2) <= len(counts)
    for n in range(1, sum(counts) // 2 + 1, 7):
        assert sample(part, n, 0) == sample(whole, n, 0)
    assert len(sample(part, len(part), 0)) == len(part)
    assert len(sample(part, 10_000, 3)) == len(part)


def own(n_labels=2, **changes):
    verbalizer = {f"c{i}": f"word{i}" for i in range(n_labels)}
    return Task.model_validate(
        {"name": "t", "verbalizer": verbalizer, "source": {"kind": "file", "path": "x.csv"}, **changes}
    )


def records(counts):
    return [Record(f"{c}-{i}", {"text": f"class {c} row {i}"}, f"c{c}") for c, n in enumerate(counts) for i in range(n)]


@pytest.mark.parametrize(
    ("counts", "judges"), [([34, 35], 0), ([35, 35], 12), ([60, 60], 12), ([300, 300], 60), ([1000, 1000], 200)]
)
def test_small_tasks_of_a_user_have_judges_too(counts, judges):
    splits = make_splits(own(len(counts)), records(counts))
    assert len(splits.judge) == judges
    assert {row.label for row in splits.judge} == ({0, 1} if judges else set())
    assert sum(map(len, splits.parts().values())) == sum(counts)


def test_a_rare_label_keeps_its_training_rows():
    splits = make_splits(own(3), records([100, 100, 5]))
    assert [row.label for row in splits.train].count(2) == 3
    assert 2 not in {row.label for row in splits.judge}


def test_no_k_fits_a_label_of_one_row():
    splits = make_splits(own(2), records([100, 3]))
    with pytest.raises(InputError) as caught:
        few_shot(splits, 1, 0, 2, per_class=True)
    said = str(caught.value)
    assert "need 2 rows of label 'c1', but the training pool has 1" in said
    assert "no k fits" in said
    assert "more rows of label 'c1', or take it out of the verbalizer" in said
    assert "use k" not in said
    few_shot(splits, 1, 0, 2)  # not of each class: some go without
    with pytest.raises(InputError, match="no k fits"):
        few_shot(drawn([1]), 1, 0, 1)
    with pytest.raises(InputError, match="label 'red' has no row"):
        few_shot(drawn([3, 0], ("blue", "red")), 1, 0, 2)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("counts", [[4, 100], [5, 9, 7], [1, 30], [3, 3], [2, 2, 2], [40]])
def test_what_the_check_says_is_what_every_seed_can_do(counts, per_class):
    splits = drawn(counts)
    for k in range(1, sum(counts) // 2 + 2):
        found = set()
        for seed in range(12):
            try:
                draw = few_shot(splits, k, seed, len(counts), per_class)
                assert isinstance(draw, Draw)
                assert len(draw.shots) == len(draw.validation) == k * (len(counts) if per_class else 1)
                found.add(True)
            except InputError:
                found.add(False)
        try:
            check_draw(splits, k, len(counts), per_class)
            assert found == {True}
        except InputError:
            assert found == {False}


def test_checks_of_many_seeds_are_cheap():
    splits = drawn([2500, 2500])
    check_draw(splits, 16, 2)
    start = time.process_time()
    for _ in range(2000):
        check_draw(splits, 16, 2)
    assert time.process_time() - start < 1  # none of them sorts 5,000 rows


def test_kept_orders_are_bounded_and_not_inherited():
    from dataclasses import replace

    splits = drawn([20, 20])
    for seed in range(40):
        few_shot(splits, 2, seed, 2)
    assert len(splits.drawn) <= 8
    fewer = replace(splits, train=splits.train[:30])
    rows = {row.id for part in few_shot(fewer, 4, 39, 2) for row in part}
    assert rows <= {row.id for row in fewer.train}  # a guarded task draws from what was left to it
