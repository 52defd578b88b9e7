import math

import pytest

from registry.promotion.choose import can_answer, candidates, may_stand
from tests.registry.registry_helpers import make_outcome, make_spec


def made(loss, score=50.0, **spec):
    return make_outcome(make_spec(**{"task": "mood", **spec}), validation={"loss": loss, "score": score})


def chosen(*outcomes):
    return candidates(outcomes, {"mood"}).get("mood")


def test_the_most_shots_count_before_any_score():
    """Two validation rows that are right by luck beat no adapter of all rows."""
    few, some, every = made(0.0, 100.0, shots=2), made(0.3, 90.0, shots=16), made(0.6, 80.0, shots=None)
    assert chosen(few, some) is some
    assert chosen(few, some, every) is every


def test_variants_are_compared_on_the_mean_of_the_same_draws():
    lucky = [made(0.1, seed=0), made(0.9, seed=1)]
    steady = [made(0.3, seed=0, init="source", source_task="a"), made(0.35, seed=1, init="source", source_task="a")]
    assert chosen(*lucky, *steady) is steady[0]


def test_who_has_its_loss_from_its_teacher_is_no_better():
    teacher = made(0.5, method="dept", init="auto", kind="ensemble", searched="search")
    student = made(0.5, method="dept", init="auto", teacher_sha256="sha")
    assert chosen(student, teacher) == chosen(teacher, student) == teacher
    assert chosen(made(0.4, method="dept", init="auto", teacher_sha256="sha"), teacher) != teacher


def test_scores_that_are_not_finite_come_last():
    broken, fine = made(math.nan, math.nan), made(0.7, seed=1)
    assert chosen(broken, fine) is fine
    assert chosen(made(math.inf), made(0.9, init="source", source_task="a")).spec.init == "source"


def test_the_order_of_outcomes_does_not_matter():
    outcomes = [made(0.5, seed=seed) for seed in range(4)]
    assert chosen(*outcomes).spec.seed == chosen(*outcomes[::-1]).spec.seed == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"method": "lora"},
        {"role": "search"},
        {"kind": "probe"},
        {"members": ("a", "b")},
        {"training": {"steps": 0}},
    ],
)
def test_who_cannot_stand(spec):
    assert may_stand(made(0.5))
    assert not may_stand(made(0.5, **spec))
    assert chosen(made(0.5, **spec)) is None


def test_shots_in_context_can_stand_and_what_left_no_adapter_cannot():
    assert may_stand(made(0.5, method="in-context", training={"steps": 0}, start="shots"))
    assert not may_stand(made(0.5, method="in-context", training={"steps": 0}, start="text")), "it holds no shots"
    gone = made(0.5)
    gone.adapter_key = ""
    assert not may_stand(gone)
    text = {"training": {"steps": 0}, "init": "auto"}  # a search found that the prompt's text does best, well read
    assert not may_stand(made(0.5, **text))
    read = made(0.5, **text)
    read.extra["readout"] = {"calibration": "batch"}
    assert may_stand(read)
    assert candidates([made(0.5)], {"another"}) == {}


@pytest.mark.parametrize("method", ["probe", "tfidf"])
def test_a_linear_baseline_stands_where_auto_chose_it(method):
    """Or where it renews a champion; any may be promoted by a person."""
    made_of = {"method": method, "training": {"steps": 0}, "start": "shots"}
    own, chosen_by_auto = made(0.1, **made_of), made(0.5, init="auto", **made_of)
    assert [may_stand(own), may_stand(chosen_by_auto), may_stand(made(0.5, role="challenger", **made_of))] == [
        *(False, True, True)
    ]
    assert can_answer(own)
    assert not can_answer(made(0.5, method="lora", init="auto"))
    assert chosen(own, chosen_by_auto, made(0.6)) is chosen_by_auto
