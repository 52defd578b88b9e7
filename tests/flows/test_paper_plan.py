"""The paper's plan for t5-base, unchanged but for the model, the rows and the number of steps: tiny local copies."""

from pathlib import Path

import pytest

from flows import transfer
from flows.planning.plan_file import load_plan, replaced
from registry.ledger import Ledger

ROWS = Path(__file__).parents[1] / "tasks" / "hub_rows"


@pytest.fixture
def small(tiny_folders, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    paper = load_plan("paper-t5-base")
    here = [name for name in paper.targets if (ROWS / name).is_dir()]
    groups = [group.model_dump() for group in paper.groups]
    for group in groups:
        group["targets"] = [name for name in group["targets"] if name in here]
        if group["scratch_training"]:
            group["scratch_training"] |= {"steps": 3}
    return replaced(
        paper,
        backbone=str(tiny_folders["t5"]),
        targets=here,
        seeds=[0],
        groups=[group for group in groups if group["targets"]],
        scratch_training=paper.scratch_training.model_dump() | {"steps": 2, "eval_every": 1},
        rates={"dept": [0.3, 0.5]},
        low_rank_rates={"dept": [1e-3]},
    )


def test_runs_unchanged_on_tiny_copies(prefect_url, small):
    done = transfer.run(small)
    assert done.failed == {}
    assert len(small.targets) >= 18  # cola and rte have their real rows elsewhere
    rows = Ledger.open().find(role="target")
    trained = {row.task: row for row in rows if row.init == "scratch"}
    assert set(trained) == set(small.targets)
    for name, row in trained.items():
        spec = row.trial_spec
        assert row.outcome["steps_done"] == small.recipe(name).scratch_training.steps
        assert row.outcome["test"]["score"] is not None
        assert spec.adapter == small.recipe(name).adapter
        assert row.outcome["extra"]["metric"] in row.outcome["test"]
        assert spec.training.lr_prompt in (0.3, 0.5)
    assert {row.outcome["steps_done"] for row in trained.values()} == {2, 3}
    assert {spec.s for spec in (row.trial_spec.adapter for row in trained.values())} == {256, 348, 512}
    assert {"squad_f1", "squad_em"} <= trained["nq"].outcome["test"].keys()
    assert "published" in done.report.read_text(encoding="utf-8").lower()
