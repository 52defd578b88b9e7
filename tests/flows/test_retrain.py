"""Retraining: fresh champions are left alone, stale ones are challenged, the alias moves only by a paired test."""

import subprocess
import sys

import pytest

import dept.backbones.shared
from flows import retrain, transfer
from flows.planning.plan_file import load_plan, validated
from flows.planning.retraining import Retraining
from infra.errors import InputError
from registry.ledger import Ledger
from registry.promotion import champion as rule
from registry.promotion.compare import compare
from registry.promotion.lookup import all_champions
from registry.tracking import Tracker
from tests.flows.conftest import write_task
from tests.tiny import save_backbone


def order(plan, **changes):
    return validated(Retraining, "retrain", backbone=plan.backbone, **changes)


def champion_now(task):
    """The newest champion of a task, on whatever weights."""
    found = [one for one in all_champions(Ledger.open(), Tracker()) if one.task == task]
    return max(found, key=lambda one: one.since)


@pytest.fixture
def always_better(monkeypatch):
    """The test itself is tested elsewhere: here every challenger that was scored wins."""

    def compared(*args, **options):
        found = compare(*args, **options)
        return type(found)(**{**vars(found), "better": True})

    monkeypatch.setattr(rule, "compare", compared)


def test_fresh_then_old_then_changed(prefect_url, make_plan, tmp_path):
    plan = load_plan(make_plan(seeds=[0]))
    transfer.run(plan)
    names = ("film", "plot", "food", "service")
    before = {task: champion_now(task).fingerprint for task in names}
    trials = len(Ledger.open().find())

    done = retrain.run(order(plan))  # own tasks are known from the run
    assert (done["stale"], done["left_out"]) == ({}, {})
    assert len(done["fresh"]) == 4
    assert len(Ledger.open().find()) == trials
    assert [row.decision for row in Ledger.open().decisions(task="film")] == ["first", "not-stale"]

    done = retrain.run(order(plan, tasks=["film"], max_age_days=1e-9))
    assert "days old" in done["stale"]["film"][0]
    (decision,) = done["decisions"]
    record = Ledger.open().decisions(task="film")[-1]
    assert (record.decision, record.champion_fingerprint) == (decision["decision"], before["film"])
    assert record.rows > 10
    assert record.rows_hash
    challenger = Ledger.open().get(record.challenger_fingerprint).trial_spec
    assert (challenger.role, challenger.init, challenger.seed) == ("challenger", "best-source", 1)
    assert challenger.source_task in ("food", "service")
    evaluated = Ledger.open().find(task="film", kind="evaluate")
    assert {row.role for row in evaluated} == {"champion", "challenger"}
    assert len({row.trial_spec.row_ids for row in evaluated}) == 1
    assert Ledger.open().find(kind="probe"), "the start was chosen by trials of the ledger"

    write_task(tmp_path / "plot.csv", "plot", seed=77, rows=90)
    done = retrain.run(order(plan))
    assert done["stale"] == {"plot": ["task data changed"]}
    (decision,) = done["decisions"]
    assert Ledger.open().decisions(task="plot")[-1].decision == decision["decision"]
    if decision["decision"] == "kept":
        done = retrain.run(order(plan))
        assert done["stale"] == {}, "the change was answered"


def test_rows_that_judge_were_seen_by_neither(prefect_url, make_plan, tmp_path):
    plan = load_plan(make_plan(seeds=[0], shots=[6]))
    transfer.run(plan)
    film = next(task for task in plan.own_tasks if task.name == "film")
    from tasks.draws import few_shot
    from tasks.load import load_splits

    splits = load_splits(film)
    retrain.run(order(plan, tasks=["film"], max_age_days=1e-9))
    ids = set(Ledger.open().find(task="film", kind="evaluate")[0].trial_spec.row_ids)
    assert ids
    for seed in (0, 1):
        assert not ids & {row.id for part in few_shot(splits, 6, seed, film.strata)[:2] for row in part}
    assert not ids & {row.id for row in splits.test}
    texts = {row.text for row in splits.test}
    assert not texts & {row.text for row in (*splits.train, *splits.validation) if row.id in ids}


def test_another_number_type_finds_nothing_stale(prefect_url, make_plan):
    plan = load_plan(make_plan(seeds=[0], targets=["film"], dtype="float32"))
    transfer.run(plan)
    assert retrain.run(order(plan, dtype="bfloat16"))["stale"] == {}
    done = retrain.run(order(plan, dtype="bfloat16", tasks=["film"], max_age_days=1e-9))
    assert "could not be scored" not in done["decisions"][0]["reason"]
    types = {row.role: row.trial_spec.dtype for row in Ledger.open().find(task="film", kind="evaluate")}
    assert types == {"champion": "float32", "challenger": "bfloat16"}


def test_a_better_challenger_answers_from_then_on(prefect_url, make_plan, always_better):
    plan = load_plan(make_plan(seeds=[0]))
    transfer.run(plan)
    before = champion_now("film")
    done = retrain.run(order(plan, tasks=["film"], max_age_days=1e-9))
    assert done["decisions"][0]["decision"] == "promoted"
    after = champion_now("film")
    assert (after.fingerprint != before.fingerprint, after.name) == (True, before.name)


def test_no_challenger_starts_from_what_has_seen_its_rows(prefect_url, make_plan, tmp_path):
    """A source under another name that holds the target's texts is no start; one of the target's name neither."""
    plan_file = make_plan(seeds=[0])
    lines = (tmp_path / "film.csv").read_text()
    plan = load_plan(plan_file)
    transfer.run(plan)
    (tmp_path / "food.csv").write_text(lines)  # another plan: `food` now holds the reviews of films
    other = load_plan(make_plan(seeds=[0], name="other", targets=["plot"], sources=["food", "film"]))
    transfer.run(other)
    retrain.run(order(plan, tasks=["film"], max_age_days=1e-9))
    record = Ledger.open().decisions(task="film")[-1]
    challenger = Ledger.open().get(record.challenger_fingerprint).trial_spec
    assert challenger.source_task == "service"


def test_another_backbone_retrains_sources_first(prefect_url, make_plan, tmp_path):
    folder = save_backbone(tmp_path / "moving-llama", "llama")
    plan = load_plan(make_plan(seeds=[0], backbone=str(folder)))
    transfer.run(plan)
    before = champion_now("film")
    save_backbone(folder, "llama", seed=1)
    dept.backbones.shared._loaded.cache_clear()  # a new process would load it anew
    done = retrain.run(order(plan, tasks=["film"]))
    assert done["stale"] == {"film": ["backbone changed"]}
    (decision,) = done["decisions"]
    assert decision["decision"] == "first"  # nobody answers on these weights yet
    after = champion_now("film")
    assert after.fingerprint != before.fingerprint
    assert after.name != before.name
    spec = Ledger.open().get(after.fingerprint).trial_spec
    assert spec.backbone_id != before.backbone_id
    assert retrain.run(order(plan, tasks=["film"]))["stale"] == {}


def test_what_is_left_out_is_said(prefect_url, make_plan, tmp_path):
    plan = load_plan(make_plan(seeds=[0], targets=["film"]))
    transfer.run(plan)
    (tmp_path / "food.csv").write_text("nothing\n")
    ledger = Ledger.open()
    ledger.forget_tasks(["service"])
    done = retrain.run(order(plan))
    assert set(done["left_out"]) == {"food", "service"}
    assert "dept tasks add" in done["left_out"]["service"]
    assert len(done["fresh"]) == 1
    with pytest.raises(InputError, match="unknown task 'nobody'"):
        retrain.run(order(plan, tasks=["nobody"]))


def test_a_controller_loads_no_torch():
    code = "import flows.retrain, flows.work, sys; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
