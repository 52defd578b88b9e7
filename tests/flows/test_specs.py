"""From a plan to its trials."""

import pytest

from dept.config import TrainConfig
from dept.trial import TrialSpec
from flows.planning.plan import check
from flows.planning.plan_file import load_plan, replaced, with_settings
from flows.planning.trials import (
    Cell,
    Ground,
    Origin,
    cells,
    cells_to_start,
    search_cells,
    search_specs,
    source_specs,
    target_specs,
)
from infra.errors import InputError

BACKBONE_ID = "b" * 64


@pytest.fixture(scope="module")
def demo():
    plan = replaced(load_plan("demo"), shots=[4, 16], source_rows=100)
    return plan, Ground(plan.resolve_tasks(), check(plan), BACKBONE_ID, 576)


def origins_of(plan):
    names = {4: "nyt-polarity", 16: "amazon-polarity"}
    return {
        (cell, strategy): Origin(names[cell.shots], f"{cell.seed}" * 64)
        for cell in (*cells(plan), *search_cells(plan))
        for strategy in plan.strategies
        if strategy != "scratch"
    }


def test_sources_are_one_trial_each(demo):
    plan, ground = demo
    specs = source_specs(plan, ground)
    assert [spec.task for spec in specs] == plan.sources
    assert {(spec.role, spec.init, spec.shots, spec.seed, spec.train_rows) for spec in specs} == {
        ("source", "scratch", None, plan.seeds[0], 100)
    }
    assert specs[0].data_hash == ground.splits["amazon-polarity"].data_hash
    assert specs[0].backbone_id == BACKBONE_ID
    assert specs[0].training == plan.source_training


def test_targets_are_shots_by_seeds_by_strategies_and_one_untrained(demo):
    plan, ground = demo
    origins = origins_of(plan)
    specs = target_specs(plan, ground, origins)
    assert len(specs) == 2 * (1 + 2 * 2 * 2)
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert {spec.role for spec in specs} == {"target"}
    untrained = [spec for spec in specs if spec.init == "untrained"]
    assert [spec.task for spec in untrained] == plan.targets
    assert {(spec.training.steps, spec.shots, spec.seed) for spec in untrained} == {(0, None, 0)}
    for spec in specs:
        if spec.init == "best-source":
            origin = origins[Cell(spec.task, spec.shots, spec.seed), "best-source"]
            assert (spec.source_task, spec.source_sha256) == (origin.task, origin.sha256)
            assert spec.training == plan.transfer_training
        else:
            assert spec.source_task is None
            assert spec.source_sha256 is None
        if spec.init == "scratch":
            assert spec.training == plan.scratch_training
    with pytest.raises(InputError, match="no source adapter is known"):
        target_specs(plan, ground, {})


def test_untrained_does_not_depend_on_the_recipe(demo):
    plan, ground = demo
    other = replaced(plan, strategies=["scratch"], scratch_training=TrainConfig(steps=3), seeds=[5])
    first, second = (
        next(s for s in target_specs(p, ground, origins_of(p)) if s.init == "untrained") for p in (plan, other)
    )
    assert first.fingerprint == second.fingerprint


def test_more_test_rows_than_there_are_is_all_of_them(demo):
    plan, ground = demo
    for asked in (10**5, 10**6):
        spec = source_specs(replaced(plan, test_rows=asked), ground)[0]
        assert spec.test_rows == len(ground.splits["amazon-polarity"].test)


def test_rivals_have_the_budget_of_scratch(demo):
    plan, ground = demo
    methods = ["dept", "prompt-tuning", "lora", "full", "in-context"]
    plan = replaced(plan, methods=methods, strategies=["scratch"], shots=[4], seeds=[0])
    by_method = {s.method: s for s in target_specs(plan, ground, {}) if s.task == "movie-polarity" and s.shots}
    assert list(by_method) == methods
    for method in methods[:-1]:
        assert by_method[method].training == plan.scratch_training
    assert by_method["in-context"].training.steps == 0
    tuned = by_method["prompt-tuning"].adapter
    assert tuned.r == 0
    assert abs(tuned.trainable(576) - plan.adapter.trainable(576)) <= 576 / 2
    assert {s.data_hash for s in by_method.values()} == {ground.splits["movie-polarity"].data_hash}


def test_rates_are_searched_on_shots_of_their_own(demo):
    plan, ground = demo
    plan = replaced(plan, rates={"dept": [1e-3, 1e-2], "transfer": [1e-3, 3e-3], "prompt-tuning": [0.1]})
    plan = replaced(plan, methods=["dept", "prompt-tuning"])
    tried = search_specs(plan, ground, origins_of(plan))
    assert [(key, rate) for key, (rate, _) in tried] == [
        ("dept", 1e-3),
        ("dept", 1e-2),
        ("transfer", 1e-3),
        ("transfer", 3e-3),
    ]
    for (key, (rate, _)), specs in tried.items():
        assert [spec.task for spec in specs] == plan.targets
        assert {(s.role, s.test_rows, s.shots, s.seed, s.transfers) for s in specs} == {
            ("search", 0, 16, 2**31, key == "transfer")
        }
        assert {(s.training.lr_prompt, round(s.training.lr_low_rank / rate, 9)) for s in specs} == {(rate, 0.1)}
    specs = target_specs(plan, ground, origins_of(plan), {("dept", ""): (1e-2, 1e-3), ("transfer", ""): (3e-3, 3e-4)})
    rates = {(s.variant, s.training.lr_prompt) for s in specs if s.init != "untrained"}
    assert rates == {("scratch", 1e-2), ("best-source", 3e-3), ("prompt-tuning", 0.1)}


def test_rates_may_be_searched_on_several_draws(demo):
    plan, ground = demo
    plan = replaced(plan, rates={"dept": [1e-3, 1e-2], "transfer": [1e-3, 3e-3]}, search_draws=3)
    draws = {(name, 2**31 + i) for name in plan.targets for i in range(3)}
    for specs in search_specs(plan, ground, origins_of(plan)).values():
        assert len(specs) == len(draws)
        assert {(spec.task, spec.seed) for spec in specs} == draws
    assert len(cells_to_start(plan)) == len(cells(plan)) + len(draws)
    with pytest.raises(InputError, match="search_draws: must be a whole number from 1 to 100"):
        with_settings(plan, ["search_draws=0"])


@pytest.mark.parametrize(
    "searched", [{}, {"rates": {"transfer": [0.1, 0.2]}}, {"low_rank_rates": {"transfer": [1, 2]}}]
)
def test_a_search_of_transfer_needs_starts_for_its_draws(demo, searched):
    plan, ground = demo
    plan = replaced(plan, **searched)
    tried = [spec for specs in search_specs(plan, ground, origins_of(plan)).values() for spec in specs]
    started = {(cell.target, cell.shots, cell.seed) for cell in cells_to_start(plan)}
    assert started >= {(spec.task, spec.shots, spec.seed) for spec in tried}
    assert len(started) == len(cells(plan)) + (len(plan.targets) if searched else 0)


def test_groups_grids_and_all_rows(demo):
    plan, ground = demo
    plan = replaced(
        plan,
        strategies=["scratch"],
        shots=["all"],
        seeds=[0],
        rates={"dept": [0.3, 0.5]},
        low_rank_rates={"dept": [1e-4, 1e-3]},
        rates_per="target",
        groups=[{"targets": ["tweet-polarity"], "adapter": {"s": 32}, "scratch_training": {"steps": 7}}],
    )
    tried = search_specs(plan, ground, {})
    assert [rate for _, rate in tried] == [(0.3, 1e-4), (0.3, 1e-3), (0.5, 1e-4), (0.5, 1e-3)]
    chosen = {("dept", "movie-polarity"): (0.3, 1e-3), ("dept", "tweet-polarity"): (0.5, 1e-4)}
    movie, tweet = (spec for spec in target_specs(plan, ground, {}, chosen) if spec.init == "scratch")
    assert (movie.shots, movie.training.steps, movie.adapter.s) == (None, plan.scratch_training.steps, 64)
    assert (tweet.training.steps, tweet.adapter.s, tweet.training.batch_size) == (7, 32, movie.training.batch_size)
    assert (movie.training.lr_prompt, movie.training.lr_low_rank) == (0.3, 1e-3)
    assert (tweet.training.lr_prompt, tweet.training.lr_low_rank) == (0.5, 1e-4)
    assert movie.validation_rows == plan.source_validation_rows
    for wrong, said in (
        ([{"targets": ["sms-spam"]}], "sms-spam is no target"),
        ([{"targets": ["movie-polarity"], "adapter": {"q": 1}}], "q"),
        ([{"targets": ["movie-polarity", "movie-polarity"]}], "in two groups"),
    ):
        with pytest.raises(InputError, match=said):
            replaced(plan, groups=wrong)


def test_one_adapter_for_all_sources(demo):
    plan, ground = demo
    *single, together = source_specs(replaced(plan, strategies=["scratch", "multitask"]), ground)
    assert together.members == tuple(plan.sources)
    assert together.test_rows == 0
    assert together.training.steps == sum(spec.training.steps for spec in single)
    assert together.data_hash not in {spec.data_hash for spec in single}


def test_trials_of_before_strategies_had_names_are_still_read(demo):
    """A ledger keeps specs as JSON; one of an earlier version must not end `dept trials`."""
    plan, ground = demo
    old = source_specs(plan, ground)[0].model_dump() | {"role": "target", "init": "transfer", "source_task": "x"}
    for key in ("per_class", "members"):
        del old[key]
    spec = TrialSpec.model_validate(old)
    assert spec.transfers
    assert spec.label.endswith("/transfer:x")
