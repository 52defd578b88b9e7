"""The paper's plans for t5-base: what they ask for; and run on tiny local copies, unchanged but for rows and steps."""

from pathlib import Path

import pytest

from dept.adapters.optimizer import rate_factor
from flows import transfer
from flows.planning.cost import estimate
from flows.planning.plan_file import load_plan, replaced, shipped_plans
from registry.ledger import Ledger
from tests.flows.test_cli import dept
from tests.tasks.test_tasks_catalogue_hub import PAPER

ROWS = Path(__file__).parents[1] / "tasks" / "hub_rows"
K = 1000
# The released runs: m, r, s, rate of P, rate of A and B, steps (read from their own files; see the plan's head).
RELEASED = {
    "rte": (60, 30, 256, 0.4, 1e-4, 30 * K),
    "superglue-cb": (60, 30, 256, 0.4, 1e-4, 30 * K),
    "superglue-wsc.fixed": (60, 30, 256, 0.3, 1e-4, 20 * K),
    "superglue-wic": (60, 30, 256, 0.3, 1e-3, 20 * K),
    "mrpc": (60, 30, 256, 0.3, 5e-3, 10 * K),
    "stsb": (60, 30, 256, 0.3, 1e-4, 30 * K),
    "sst2": (60, 30, 256, 0.3, 5e-4, 30 * K),
    "mnli": (60, 30, 256, 0.3, 1e-4, 250 * K),
    "qnli": (60, 30, 256, 0.4, 5e-3, 100 * K),
    "qqp": (60, 30, 256, 0.4, 5e-3, 100 * K),
    "cola": (80, 15, 256, 0.3, 5e-4, 40 * K),
    "superglue-boolq": (40, 45, 256, 0.3, 5e-3, 30 * K),
    "superglue-multirc": (60, 30, 348, 0.3, 5e-3, 30 * K),
    "nq": (60, 24, 512, 0.3, 1e-4, 300 * K),
    "searchqa": (60, 24, 512, 0.3, 1e-4, 250 * K),
    "hotpotqa": (60, 24, 512, 0.4, 1e-4, 250 * K),
    "newsqa": (60, 24, 512, 0.4, 1e-4, 200 * K),
}


def test_every_shipped_plan_loads():
    assert {"demo", "few-shot-suite", "paper-t5-base", "paper-fewshot-t5-base"} <= set(shipped_plans())
    for name in shipped_plans():
        assert load_plan(name).name == name


def test_each_task_has_the_settings_of_its_released_run():
    paper = load_plan("paper-t5-base")
    assert set(paper.targets) == PAPER
    assert (len(PAPER), paper.seeds, paper.rates, paper.low_rank_rates) == (21, [42], {}, {})
    for name in paper.targets:
        recipe = paper.recipe(name)
        shape, training = recipe.adapter, recipe.scratch_training
        found = (shape.m, shape.r, shape.s, training.lr_prompt, training.lr_low_rank, training.steps)
        unknown = (40, 45, 256, 0.3, 5e-4, (300 if name == "yelp-polarity" else 40) * K)
        assert found == RELEASED.get(name, unknown), name
        assert shape.trainable(768) == (79_560 if name == "superglue-multirc" else 76_800)
        assert (
            rate_factor(499, training.steps, training.warmup) < 1.0 == rate_factor(500, training.steps, training.warmup)
        )
        as_the_paper(shape, training)


def as_the_paper(shape, training):
    """What no default of ours may change: answers, objective, schedule, no early stop, nothing against overfitting."""
    assert (shape.alpha, shape.layout, shape.answers, shape.offset) == (8, "paper", "words", 0)
    assert (training.objective, training.schedule, training.patience) == ("vocabulary", "linear", None)
    assert (training.batch_size, training.weight_decay, training.clip) == (32, 1e-5, 1.0)
    assert (training.average, training.dropout, training.noise, training.label_smoothing) == (0, 0, 0, 0)


def test_the_few_shot_plan_has_the_papers_settings():
    paper = load_plan("paper-fewshot-t5-base")
    assert paper.sources == ["mnli", "qqp", "sst2", "squad", "superglue-record"]
    assert (paper.targets, paper.shots) == (["superglue-boolq", "superglue-cb", "scitail"], [4, 16, 32])
    assert (paper.validation, paper.verbalizer, paper.adapter.trainable(768)) == ("full", "paper", 76_800)
    for training in (paper.source_training, paper.scratch_training, paper.transfer_training):
        as_the_paper(paper.adapter, training)


def dry(name):
    result = dept("run", name, "--dry-run")
    assert result.exit_code == 0, result.output
    return {(line.stage, line.variant): line for line in estimate(load_plan(name)).lines}, result.stdout


def test_the_papers_plan_runs_dry_without_hub_and_backbone(monkeypatch):
    monkeypatch.delenv("DEPT_DATA", raising=False)
    monkeypatch.setattr("tasks.sources.hub._remote", lambda *_: pytest.fail("a dry run must not go to the hub"))
    counted, _ = dry("paper-t5-base")
    assert {stage for stage, _ in counted} == {"targets"}
    targets = counted["targets", "scratch"]
    assert targets.trials == 21
    assert targets.steps == sum(steps for *_, steps in RELEASED.values()) + (300 + 3 * 40) * K
    assert set(targets.numbers) == {76_800, 79_560}
    counted, said = dry("paper-fewshot-t5-base")
    assert "Steps, rates and starts are chosen on the whole validation split." in said
    trials = {place: line.trials for place, line in counted.items()}
    draws, searched = 3 * 3 * 3, 3
    assert trials == {
        ("sources", "each"): 5,
        ("choice", "best-source"): 5 * (draws + searched),
        ("search", "scratch"): 12 * searched,
        ("search", "best-source"): 12 * searched,
        ("targets", "untrained"): 3,
        ("targets", "scratch"): draws,
        ("targets", "best-source"): draws,
        ("targets", "probe"): draws,  # shown beside what is asked for
        ("targets", "tfidf"): draws,
    }


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
        groups=[group for group in groups if group["targets"]],
        scratch_training=paper.scratch_training.model_dump() | {"steps": 2, "eval_every": 1},
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
        rates = RELEASED.get(name, (0, 0, 0, 0.3, 5e-4))[3:5]
        assert (spec.training.lr_prompt, spec.training.lr_low_rank) == rates
    assert {row.outcome["steps_done"] for row in trained.values()} == {2, 3}
    assert {spec.s for spec in (row.trial_spec.adapter for row in trained.values())} == {256, 348, 512}
    assert {"squad_f1", "squad_em"} <= trained["nq"].outcome["test"].keys()
    assert "published" in done.report.read_text(encoding="utf-8").lower()


def test_the_few_shot_plan_runs_unchanged_on_tiny_copies(prefect_url, tiny_folders, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    paper = load_plan("paper-fewshot-t5-base")
    recipes = {f"{kind}_training": getattr(paper, f"{kind}_training") for kind in ("source", "scratch", "transfer")}
    fewer = {name: recipe.model_dump() | {"steps": 2, "eval_every": 1} for name, recipe in recipes.items()}
    fewer |= {"sources": ["sst2", "squad"], "targets": ["superglue-cb"], "shots": [4], "seeds": [42], "probe_steps": 1}
    done = transfer.run(replaced(paper, backbone=str(tiny_folders["t5"]), rates={}, low_rank_rates={}, **fewer))
    assert (done.failed, done.not_run) == ({}, {})
    specs = [row.trial_spec for row in Ledger.open().find(outcomes=False)]
    assert {s.task for s in specs if s.role == "source"} == {"sst2", "squad"}
    assert {s.init for s in specs if s.role == "target" and s.shots} == {"scratch", "best-source"}
    assert all(s.validation_rows > 0 for s in specs if s.shots and s.training.steps)
    assert "Not true few-shot" in done.report.read_text(encoding="utf-8")
