"""Which rows choose: as many as shots, or the whole validation split; and what is said of it and of LoRA."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dept.config import TrainConfig
from flows.execution.rows import examples_of
from flows.planning.check import check
from flows.planning.cost import estimate
from flows.planning.leakage import guarded
from flows.planning.places import Origin, draws, draws_of_search, to_start
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, replaced
from flows.planning.strategies import start_specs
from flows.planning.trials import Inputs, search_specs, target_specs
from flows.reporting.html import markdown, write_report
from flows.reporting.protocol import REFIT, SHOTS, protocol
from infra.errors import InputError
from tasks.draws import check_draw, few_shot
from tasks.formatting import Example
from tasks.load import load_splits
from tasks.pictures import Picture
from tasks.splits import Splits
from tests.flows.report_helpers import no_plots  # noqa: F401
from tests.flows.test_report_variants import printed, trial


def ids(rows):
    return [row.id for row in rows]


@pytest.fixture
def both(make_plan):
    """The same plan by both protocols, its tasks and rows."""
    shots = load_plan(make_plan(shots=[4], rates={"dept": [0.1, 0.2]}, strategies=["scratch", "best-source"]))
    full = replaced(shots, validation="full")
    inputs = Inputs(shots.resolve_tasks(), check(full), "b" * 64, 32)
    return shots, full, inputs


def test_the_protocol_is_part_of_the_question(both):
    shots, full, inputs = both
    assert shots.validation == "shots"
    there = {name: len(inputs.splits[name].validation) for name in full.targets}
    origin = Origin("food", "a" * 64)
    origins = {(draw, "best-source"): origin for draw in (*draws(shots), *draws_of_search(shots))}
    for make in (
        lambda plan: target_specs(plan, inputs, origins),
        lambda plan: [spec for specs in search_specs(plan, inputs, origins).values() for spec in specs],
        lambda plan: start_specs(plan, inputs, {"food": "a" * 64, "service": "b" * 64}),
    ):
        few, whole = ([s for s in make(plan) if s.shots is not None] for plan in (shots, full))
        assert few
        assert {spec.validation_rows for spec in few} == {None}
        assert all(spec.validation_rows == there[spec.task] > 4 for spec in whole)
        assert not {spec.fingerprint for spec in few} & {spec.fingerprint for spec in whole}
    every = [replaced(plan, shots=["all"]) for plan in (shots, full)]
    origins = dict.fromkeys(to_start(every[0]), origin)
    first, second = ([spec.fingerprint for spec in target_specs(plan, inputs, origins)] for plan in every)
    assert first == second  # of all rows, the validation split chooses anyway


def test_the_rows_that_choose(both):
    _, full, inputs = both
    context = SimpleNamespace(tasks=inputs.tasks, splits=inputs.splits)
    spec = next(
        s for s in target_specs(replaced(full, strategies=["scratch"]), inputs, {}) if (s.task, s.shots) == ("film", 4)
    )
    shots, validation = examples_of(context, spec)
    splits = context.splits["film"]
    assert [row for _, row in shots] == list(few_shot(splits, 4, spec.seed, 2)[0])
    assert sorted(row.id for _, row in validation) == sorted(ids(splits.validation))
    assert not {row.id for _, row in validation} & set(ids((*splits.judge, *splits.test, *splits.train)))
    drawn = examples_of(context, spec.model_copy(update={"validation_rows": None}))[1]
    assert [row for _, row in drawn] == list(few_shot(splits, 4, spec.seed, 2)[1])
    assert examples_of(context, spec.model_copy(update={"validation_rows": 0}))[1] == []


def test_shots_alone_need_no_rows_beside_them():
    rows = tuple(Example(f"{c}-{i}", f"class {c} row {i}", c) for c in range(2) for i in range(3))
    splits = Splits(train=rows, validation=(), test=(), data_hash="", dropped={})
    with pytest.raises(InputError, match=r"as many validation rows need 8 training rows, .* use k <= 3"):
        few_shot(splits, 4, 0, 2)
    assert len(few_shot(splits, 4, 0, 2, checks=False).shots) == 4
    assert few_shot(splits, 6, 0, 2, checks=False).validation == ()
    assert few_shot(splits, 2, 5, 2, checks=False).shots == few_shot(splits, 2, 5, 2).shots
    with pytest.raises(InputError, match=r"^k=7 shots need 7 training rows, but there are 6; use k <= 6$"):
        check_draw(splits, 7, 2, checks=False)
    uneven = replace(splits, train=(*rows[:5], *(Example(f"0-{i}", f"class 0 row {i}", 0) for i in (8, 9))))
    with pytest.raises(InputError, match=r"^k=7 shots, balanced over 2 classes, need 3 rows of .* has 2; use k <= 5$"):
        check_draw(uneven, 7, 2, checks=False)


def test_a_plan_asks_for_the_rows_that_it_needs(make_plan):
    plan = load_plan(make_plan(shots=[20], sources=[], strategies=["scratch"]))
    with pytest.raises(InputError, match="as many validation rows"):
        check(plan)
    assert check(replaced(plan, validation="full"))
    with pytest.raises(InputError, match="validation: 'whole' is unknown"):
        replaced(plan, validation="whole")


def test_the_validation_split_is_kept_out_of_the_sources():
    plan = Plan(name="leak", sources=["trec-coarse"], targets=["trec-fine"], shots=[4], seeds=[0], validation="full")
    splits = {name: load_splits(task) for name, task in plan.resolve_tasks().items()}
    keys = {row.key for part in ("test", "validation", "judge") for row in getattr(splits["trec-fine"], part)}
    left = guarded(plan, splits)["trec-coarse"]
    assert not keys & {row.key for row in (*left.train, *left.validation)}
    drawn = {
        row.key for row in few_shot(splits["trec-fine"], 4, 0, plan.resolve_tasks()["trec-fine"].strata).validation
    } - keys
    by_shots = guarded(plan.model_copy(update={"validation": "shots"}), splits)["trec-coarse"]
    assert drawn & {row.key for row in left.train}  # they validate nothing here
    assert not drawn & {row.key for row in by_shots.train}


def test_a_dry_run_counts_and_tells_the_protocol(make_plan):
    plan = load_plan(make_plan(methods=["dept", "lora", "lora-r8"], strategies=["scratch"], sources=[]))
    few, whole = estimate(plan), estimate(replaced(plan, validation="full"))
    assert "Steps, rates and starts are chosen on as many rows as shots (true few-shot)." in few.notes
    assert "Steps, rates and starts are chosen on the whole validation split." in whole.notes
    spent = [{line.variant: line for line in found.lines}["scratch"].evaluated for found in (few, whole)]
    assert spent[1] > spent[0]
    numbers = {line.variant: set(line.numbers) for line in few.lines}
    (least,) = numbers["lora"]
    assert numbers["lora-r8"] == {8 * least}
    assert f"lora trains {least:,} numbers, DePT 240: rank 1 in all linear layers is the least there is." in few.notes


@pytest.mark.usefixtures("no_plots")
def test_the_report_says_by_which_rows_and_with_how_many_numbers(tmp_path):
    few = [trial("scratch", 60.0, trainable=8320), trial("lora", 61.0, trainable=9000, extra={"rank": 1})]
    whole = [replace(o, spec=o.spec.model_copy(update={"validation_rows": 123})) for o in few]
    assert protocol(few)[0] == SHOTS
    (said, numbers) = protocol(whole)
    assert "Not true few-shot" in said
    assert "(123 of movie-polarity), as in published few-shot tables" in said
    least = (
        "lora: rank 1 in all linear layers, 9,000 trainable numbers a trial, DePT 8,320; rank 1 is the least there is."
    )
    assert numbers == least
    within = replace(few[1], trainable=8000)
    assert protocol([few[0], within])[1].endswith("8,000 trainable numbers a trial, DePT 8,320.")
    assert protocol([replace(few[1], extra={})]) == [SHOTS]  # of a ledger of before
    assert protocol([trial("scratch", 60.0, k=None)]) == []
    again = replace(few[0], spec=few[0].spec.model_copy(update={"refit": True}))
    assert protocol([again]) == [REFIT]
    assert protocol([few[0], again]) == [SHOTS, REFIT]
    found = {"training": TrainConfig(steps=0), "searched": "5" * 64, "refit": True}
    assert protocol([trial("probe", 60.0, spec=found)]) == [REFIT]  # it makes no steps, but was chosen
    assert protocol([trial("probe", 60.0, spec={"training": TrainConfig(steps=0)})]) == []
    for text in (" ".join(printed(whole).split()), markdown("x", whole)):
        assert said in text
        assert numbers in text
    page = write_report(tmp_path, "x", {}, whole).read_text(encoding="utf-8")
    assert said in page
    assert SHOTS not in page


def test_a_source_whose_validation_rows_are_held_out_is_validated_on_training_rows(make_plan):
    plan = replaced(load_plan(make_plan(seeds=[0])), source_validation_rows=12)
    splits = {name: load_splits(task) for name, task in plan.resolve_tasks().items()}
    old, film = splits["food"], splits["film"]
    for held in (old.validation, old.validation[2:]):
        splits["film"] = replace(film, test=(*film.test, *held))
        found = guarded(plan, splits)["food"]
        wanted = min(12, len(old.validation))
        assert wanted - 1 <= len(found.validation) <= wanted + 1
        assert not {row.key for row in held} & {row.key for row in (*found.train, *found.validation)}
        assert not {row.key for row in found.train} & {row.key for row in found.validation}
        assert {row.key for row in found.train} < {row.key for row in old.train}
        assert len(found.train) >= len(old.train) * 4 // 5
        assert {row.label for row in found.validation} == {0, 1}
        assert guarded(plan, splits)["food"].data_hash == found.data_hash != old.data_hash
    asked = replaced(plan, source_validation_rows=1)
    splits["film"] = replace(film, test=old.validation[:1])
    assert len(old.validation) > 2
    assert guarded(asked, splits)["food"].train == old.train  # more than enough are left


def test_a_source_of_which_nothing_is_left_is_refused(make_plan):
    plan = load_plan(make_plan(seeds=[0]))
    splits = {name: load_splits(task) for name, task in plan.resolve_tasks().items()}
    food, film = splits["food"], splits["film"]
    splits["film"] = replace(film, test=(*film.test, *food.train, *food.validation[:-1]))
    with pytest.raises(InputError, match=r"food is left with 0 training and 1 validation rows.*Remedy: another source"):
        guarded(plan, splits)


@pytest.mark.parametrize(("about", "size"), [("picture", 5), ("group", 5), ("nothing", 1)])
def test_rows_of_one_picture_or_question_stay_together_where_training_rows_validate(make_plan, about, size):
    plan = replaced(load_plan(make_plan(seeds=[0])), source_validation_rows=10)
    splits = {name: load_splits(task) for name, task in plan.resolve_tasks().items()}
    row, film = splits["food"].train[0], splits["film"]

    def made(number):
        tied = {"picture": {"picture": Picture(f"p{number // 5}", "")}, "group": {"group": f"g{number // 5}"}}
        fields = {"id": str(number), "text": f"row {number}", "key": f"k{number}", "label": number % 2}
        return replace(row, **fields, **tied.get(about, {}))

    train, held = tuple(map(made, range(60))), tuple(map(made, range(100, 110)))
    splits["food"] = replace(splits["food"], train=train, validation=held)
    splits["film"] = replace(film, test=(*film.test, *held))
    found = guarded(plan, splits)["food"]
    assert len(found.train) + len(found.validation) == 60
    assert 10 <= len(found.validation) <= 15
    kept, taken = ({int(one.id) // size for one in part} for part in (found.train, found.validation))
    assert not kept & taken
    assert found.train == tuple(one for one in train if one in found.train), "the order stays"
    assert {one.label for one in found.train} == {one.label for one in found.validation} == {0, 1}
