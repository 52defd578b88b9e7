"""Which rows may judge."""

import dataclasses

import pytest

from dept.config import TrainConfig
from infra.settings import home
from registry.ledger import Ledger
from registry.promotion.rows import judging_rows, remember, remembered, seen_by, state_of, surely, unseen_task
from registry.store import Store
from tasks.draws import few_shot
from tasks.formatting import Example
from tests.registry.promotion_helpers import World, mood_splits
from tests.registry.registry_helpers import TASK, make_spec


class NoTracker:
    """Rows need none."""

    def log_trials(self, parent, items, **_):
        return {item.outcome.spec.fingerprint: "run" for item in items}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    for name in ("DEPT_LEDGER_URL", "DEPT_STORE"):
        monkeypatch.delenv(name, raising=False)
    return World(Ledger.open(), Store.open(), NoTracker(), splits={"mood": mood_splits()})


def ids(rows):
    return {row.id for row in rows}


def test_rows_of_draws_and_tests_never_judge(world):
    splits, outcome = world.splits["mood"], world.trial(seed=3, shots=16)
    judging = ids(judging_rows(world, "mood", seen_by(world, outcome, ())))
    shots, validation = few_shot(splits, 16, 3, 2)[:2]
    assert not judging & ids((*shots, *validation, *splits.test))
    free = ids((*splits.judge, *splits.train, *splits.validation)) - ids((*shots, *validation))
    assert judging == free


def test_a_whole_split_that_validated_never_judges(world):
    splits = world.splits["mood"]
    outcome = world.trial(seed=3, shots=16, validation_rows=len(splits.validation))
    search = make_spec(task="mood", role="search", seed=3, shots=16, data_hash=splits.data_hash, test_rows=20)
    judging = ids(judging_rows(world, "mood", seen_by(world, outcome, ())))
    shots, drawn = few_shot(splits, 16, 3, 2)[:2]
    assert judging == ids((*splits.judge, *splits.train)) - ids(shots)
    assert ids(drawn) <= judging  # they validated nothing
    both = ids(judging_rows(world, "mood", seen_by(world, outcome, [search])))
    assert judging - both == ids(drawn)


def test_draws_on_which_something_was_chosen_count_as_seen(world):
    splits, outcome = world.splits["mood"], world.trial(seed=0, shots=8)
    search = make_spec(task="mood", role="search", seed=2**31, shots=8, data_hash=splits.data_hash, test_rows=0)
    before = ids(judging_rows(world, "mood", seen_by(world, outcome, ())))
    after = ids(judging_rows(world, "mood", seen_by(world, outcome, [search])))
    assert before - after == ids(sum((part for part in few_shot(splits, 8, 2**31, 2)[:2]), ())) & before
    assert before - after


@pytest.mark.parametrize("changes", [{"train_rows": 50}, {"method": "tfidf", "training": TrainConfig(steps=0)}])
def test_an_adapter_of_all_rows_leaves_the_rows_kept_for_judging(world, changes):
    outcome, splits = world.trial(shots=None, **changes), world.splits["mood"]
    assert len(splits.judge) == 120
    assert ids(judging_rows(world, "mood", seen_by(world, outcome, ()))) == ids(splits.judge)


def test_the_order_is_fixed_and_the_number_bounded(world):
    rows = judging_rows(world, "mood", set(), most=100)
    assert rows == judging_rows(world, "mood", set(), most=100)
    assert len(rows) == 100
    labels = [row.label for row in rows]
    assert abs(sum(labels) - 50) <= 1


def test_rows_of_sources_and_their_sources_count(world):
    """A source under another name that holds some of the rows."""
    splits = world.splits["mood"]
    theirs = dataclasses.replace(splits, train=splits.train[:30], validation=splits.validation[:5], data_hash="o" * 64)
    other = TASK.model_copy(update={"name": "other", "template": "{text}"})
    world.tasks["other"], world.splits["other"] = other, theirs
    first = world.finish(make_spec(task="other", role="source", shots=None, data_hash="o" * 64, test_rows=0))
    mixture = make_spec(task="mood", kind="mixture", sources=(first.adapter_sha256,), shots=4, seed=9, test_rows=0)
    mixed = world.finish(mixture)
    outcome = world.trial(seed=1, shots=4, source_sha256=mixed.adapter_sha256, source_task="a + b", init="mixture")
    judging = ids(judging_rows(world, "mood", seen_by(world, outcome, ())))
    assert not judging & ids((*theirs.train, *theirs.validation))
    assert judging


def test_what_was_seen_is_remembered_though_the_file_changes(world):
    outcome = world.trial(shots=None)
    seen = seen_by(world, outcome, ())
    remember(world, outcome, seen)
    old = world.splits["mood"]
    world.splits["mood"] = mood_splits(1800)
    assert world.splits["mood"].data_hash != old.data_hash
    known, sure = remembered(world, outcome)
    assert (known, sure) == (seen, True)
    rows = judging_rows(world, "mood", known)
    texts = {row.text for row in (*old.train, *old.validation)}
    assert rows
    assert not texts & {row.text for row in rows}
    assert texts & {row.text for row in (*world.splits["mood"].judge, *world.splits["mood"].train)}
    remember(world, outcome, {b"12345678"})
    assert remembered(world, outcome)[0] == seen | {b"12345678"}


def test_what_is_not_known_is_said(world):
    outcome = world.trial(seed=0)
    assert remembered(world, outcome) == (seen_by(world, outcome, ()), True), "the rows are still the same"
    world.splits["mood"] = mood_splits(1500)
    assert remembered(world, outcome) == (set(), False)
    assert state_of(world, outcome.spec) == outcome.spec.data_hash


def test_strangers_to_a_task(world):
    splits = world.splits["mood"]
    far = dataclasses.replace(
        splits,
        train=tuple(Example(f"far {i}", f"far text {i}", i % 2, "good") for i in range(40)),
        validation=tuple(Example(f"far v{i}", f"far check {i}", i % 2, "good") for i in range(10)),
        data_hash="f" * 64,
    )
    near = dataclasses.replace(far, validation=splits.train[:1], data_hash="e" * 64)
    for name, rows in (("far", far), ("near", near)):
        world.tasks[name], world.splits[name] = TASK.model_copy(update={"name": name}), rows

    def spec(task, **changes):
        return make_spec(task=task, role="source", shots=None, data_hash=world.splits[task].data_hash, **changes)

    assert unseen_task(world, spec("far", test_rows=0), "mood")
    assert not unseen_task(world, spec("near", test_rows=0), "mood"), "one equal text"
    assert not unseen_task(world, spec("mood", test_rows=0), "mood")
    several = spec("far", test_rows=0).model_copy(update={"task": "multitask", "members": ("far", "mood")})
    assert not unseen_task(world, several, "mood")
    child = world.finish(spec("mood", test_rows=0))
    assert not unseen_task(world, spec("far", test_rows=0, source_sha256=child.adapter_sha256), "mood"), (
        "a start of a start"
    )


def test_two_who_remember_at_once_lose_nothing(world, monkeypatch):
    """Both read before either writes; who reads in between finds what was there."""
    outcome = world.trial()
    one, two, three = {b"11111111"}, {b"22222222"}, {b"33333333"}
    remember(world, outcome, one)
    put, late = Store.put_file, [two]

    def slow(store, file, key):
        if late:
            remember(world, outcome, late.pop())
            assert remembered(world, outcome) == (one | two, True)
        put(store, file, key)

    monkeypatch.setattr(Store, "put_file", slow)
    remember(world, outcome, three)
    assert remembered(world, outcome) == (one | two | three, True)
    assert not [path for path in (home() / "store").rglob("*") if "seen-" in str(path)], "nothing is put aside"


def test_what_a_source_saw_then_is_known_from_its_own_record(world):
    """The file of a source has changed since: today's rows say nothing of what it learned from."""
    source = world.trial(seed=5, shots=None, role="source")
    then = seen_by(world, source, ())
    spec = {"source_sha256": source.adapter_sha256, "source_task": "mood", "init": "source", "start": "source"}
    first = world.trial(seed=1, shots=4, **spec)
    assert surely(world, [first.spec])
    remember(world, first, seen_by(world, first, ()))
    world.splits["mood"] = mood_splits(1500, first=400)
    second = world.trial(seed=2, shots=4, **spec)
    assert surely(world, [second.spec]), "the first one's decision recorded the source"
    assert then <= seen_by(world, second, ())
    assert not unseen_task(world, source.spec, "mood")


def test_a_source_without_a_record_whose_rows_have_changed_makes_it_unsure(world):
    source = world.trial(seed=5, shots=None, role="source", data_hash="o" * 64)
    spec = {"source_sha256": source.adapter_sha256, "source_task": "mood", "init": "source", "start": "source"}
    outcome = world.trial(seed=1, shots=4, **spec)
    assert not surely(world, [outcome.spec])
    remember(world, outcome, seen_by(world, outcome, ()), sure=False)
    assert not remembered(world, outcome)[1]
    world.tasks["other"] = TASK.model_copy(update={"name": "other"})
    far = tuple(Example(f"far {i}", f"far text {i}", i % 2, "good") for i in range(40))
    world.splits["other"] = dataclasses.replace(world.splits["mood"], train=far, validation=(), judge=(), test=())
    assert not unseen_task(world, source.spec, "other"), "who knows"
