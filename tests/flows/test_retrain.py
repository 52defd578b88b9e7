"""Retraining: fresh champions are left alone, stale ones are challenged, the alias moves only by a margin."""

import dept.backbones.shared
from flows import retrain, transfer
from flows.planning.plan_file import load_plan, validated
from flows.planning.retraining import Retraining
from registry.ledger import Ledger
from registry.promotion.champion import champion, model_name
from registry.tracking import Tracker
from tests.flows.conftest import write_task
from tests.tiny import save_backbone


def order(plan, **changes):
    tasks = [task.model_dump() for task in plan.own_tasks]
    return validated(Retraining, "retrain", backbone=plan.backbone, own_tasks=tasks, test_rows=10, **changes)


def reigning(plan, task):
    return champion(Tracker(), model_name(plan.backbone, task))


def test_fresh_then_old_then_changed(prefect_url, make_plan, tmp_path):
    plan = load_plan(make_plan(seeds=[0]))
    transfer.run(plan)
    before = {task: reigning(plan, task).version for task in ("film", "plot", "food", "service")}
    trials = len(Ledger.open().find())

    done = retrain.run(order(plan))
    assert done["stale"] == {}
    assert len(done["fresh"]) == 4
    assert len(Ledger.open().find()) == trials
    assert {row.decision for row in Ledger.open().decisions(model_name(plan.backbone, "film"))} >= {"not-stale"}

    done = retrain.run(order(plan, tasks=["film"], max_age_days=1e-9, margin=100.0))
    assert "days old" in done["stale"]["film"][0]
    (decision,) = done["decisions"]
    assert decision["decision"] == "kept"
    assert reigning(plan, "film").version == before["film"]
    challenger = Ledger.open().find(task="film")[-1]
    assert challenger.trial_spec.source_task in ("food", "service")
    assert challenger.init == "best-source"
    assert challenger.trial_spec.seed == 1

    write_task(tmp_path / "plot.csv", "plot", seed=77, rows=90)
    done = retrain.run(order(plan, margin=0.0))
    assert done["stale"] == {"plot": ["task data changed"]}
    (decision,) = done["decisions"]
    record = Ledger.open().decisions(model_name(plan.backbone, "plot"))[-1]
    assert (record.decision, record.rows, record.margin) == (decision["decision"], 10, 0.0)
    assert record.champion_score is not None
    moved = reigning(plan, "plot").version != before["plot"]
    assert moved == (decision["challenger"] > decision["champion"]) == (decision["decision"] == "promoted")


def test_another_backbone_retrains_sources_first(prefect_url, make_plan, tmp_path):
    folder = save_backbone(tmp_path / "moving-llama", "llama")
    plan = load_plan(make_plan(seeds=[0], backbone=str(folder)))
    transfer.run(plan)
    before = reigning(plan, "film")
    save_backbone(folder, "llama", seed=1)
    dept.backbones.shared._loaded.cache_clear()  # a new process would load it anew
    done = retrain.run(order(plan, tasks=["film"]))
    assert done["stale"] == {"film": ["backbone changed"]}
    (decision,) = done["decisions"]
    assert decision["decision"] == "promoted"  # the old adapter does not fit the new weights and has no score
    after = reigning(plan, "film")
    assert after.fingerprint != before.fingerprint
    spec = Ledger.open().get(after.fingerprint).trial_spec
    assert spec.init == "best-source"
    assert spec.backbone_id != Ledger.open().get(before.fingerprint).trial_spec.backbone_id
