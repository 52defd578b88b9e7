"""Own tasks of a plan: where their files lie, what is checked, faults in one line."""

import pytest
from pydantic import ValidationError

from flows.planning.check import check
from flows.planning.explain import explained
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, with_settings
from infra.errors import InputError
from tests.flows.test_plan import own, rows, write


def test_own_file_counts_from_the_plan(tmp_path, monkeypatch):
    path = own(tmp_path, rows(20, 20))
    monkeypatch.chdir(tmp_path.parent)
    plan = load_plan(path)
    assert plan.name == "mine"
    assert plan.own_tasks[0].source.path == tmp_path / "rows.csv"
    splits = check(plan)
    assert splits["mine"].train[0].text.endswith(" Mood:")
    assert list(splits) == ["amazon-polarity", "mine"]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan  # the way into a Prefect flow


def test_own_tasks_may_be_written_as_in_the_catalogue(tmp_path):
    text = own(tmp_path, rows(20, 20)).read_text()
    text = text.replace("  - name: mine", "  mine:")
    assert load_plan(write(tmp_path, text)).own_tasks[0].name == "mine"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (rows(20, 0), "label 'bad' has no usable rows"),
        ([], "no rows"),
        ([*rows(20, 20), ("what", "ugly")], "label 'ugly' is not in the verbalizer"),
        (rows(5, 5), "task mine: k=4 shots .* use k <= 3"),
    ],
)
def test_rows_are_checked_before_training(tmp_path, given, said):
    plan = load_plan(own(tmp_path, given))
    with pytest.raises(InputError, match=said):
        check(plan)


def test_own_task_faults_name_the_place(tmp_path):
    text = own(tmp_path, rows(20, 20)).read_text()
    with pytest.raises(InputError, match=r"own_tasks.0.templat: unknown key; did you mean template\?"):
        load_plan(write(tmp_path, text.replace("template:", "templat:")))
    with pytest.raises(InputError, match="already has a task sms-spam"):
        load_plan(write(tmp_path, text.replace("mine", "sms-spam")))
    with pytest.raises(InputError, match=r"own_tasks\.0.*verbalizer"):
        load_plan(write(tmp_path, text.replace("bad: awful", "bad: great")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tickets": None}, "own_tasks: tickets: must be a block of keys and values"),
        (3, "own_tasks: must be `NAME: block` for each task, or a list"),
    ],
)
def test_own_tasks_are_blocks_by_name(given, said):
    with pytest.raises(ValidationError) as raised:
        Plan.model_validate({"name": "a", "targets": ["tickets"], "strategies": ["scratch"], "own_tasks": given})
    assert said in explained(raised.value, Plan)


def test_a_key_of_an_own_task_is_set(tmp_path):
    plan = load_plan(own(tmp_path, rows(20, 20)))
    changed = with_settings(plan, ["own_tasks.mine.cut=end"])
    assert changed.own_tasks[0].cut == "end"
    assert changed.own_tasks[0].model_copy(update={"cut": None}) == plan.own_tasks[0]
    with pytest.raises(InputError, match=r"mine2: unknown key; did you mean mine\?"):
        with_settings(plan, ["own_tasks.mine2.cut=end"])
