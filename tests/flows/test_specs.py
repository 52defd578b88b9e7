"""From a plan to its trials."""

import pytest

from dept.config import TrainConfig
from dept.trial import TrialSpec
from flows.planning.check import check
from flows.planning.places import Draw, Origin, draws, draws_of_search, needed_sources, to_start
from flows.planning.plan_file import load_plan, replaced, with_settings
from flows.planning.trials import Inputs, search_specs, source_specs, target_specs
from infra.errors import InputError
from tasks.draws import few_shot, rows_to_test, subset

BACKBONE_ID = "b" * 64
TARGETS = ["movie-polarity", "tweet-polarity"]


@pytest.fixture(scope="module")
def demo():
    shipped = load_plan("demo")
    own = {"scratch_training": shipped.scratch_training.model_copy(update={"lr_prompt": 1e-2, "lr_low_rank": 1e-3})}
    asked = {"methods": ["dept"], "beside": [], "targets": TARGETS, "groups": []}
    plan = replaced(shipped, shots=[4, 16], source_rows=100, **asked, **own)
    return plan, Inputs(plan.resolve_tasks(), check(plan), BACKBONE_ID, 576)


def origins_of(plan):
    names = {4: "nyt-polarity", 16: "amazon-polarity"}
    return {
        (draw, strategy): Origin(names[draw.shots], f"{draw.seed}" * 64)
        for draw in (*draws(plan), *draws_of_search(plan))
        for strategy in plan.strategies
        if strategy != "scratch"
    }


def test_sources_are_one_trial_each(demo):
    plan, inputs = demo
    specs = source_specs(plan, inputs)
    assert [spec.task for spec in specs] == plan.sources
    assert {(spec.role, spec.init, spec.shots, spec.seed, spec.train_rows) for spec in specs} == {
        ("source", "scratch", None, plan.seeds[0], 100)
    }
    assert specs[0].data_hash == inputs.splits["amazon-polarity"].data_hash
    assert specs[0].backbone_id == BACKBONE_ID
    assert specs[0].training == plan.source_training


def test_targets_are_shots_by_seeds_by_strategies_and_one_untrained(demo):
    plan, inputs = demo
    origins = origins_of(plan)
    specs = target_specs(plan, inputs, origins)
    assert len(specs) == 2 * (1 + 2 * 2 * 2)
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert {spec.role for spec in specs} == {"target"}
    untrained = [spec for spec in specs if spec.init == "untrained"]
    assert [spec.task for spec in untrained] == plan.targets
    assert {(spec.training.steps, spec.shots, spec.seed) for spec in untrained} == {(0, None, 0)}
    for spec in specs:
        if spec.init == "best-source":
            origin = origins[Draw(spec.task, spec.shots, spec.seed), "best-source"]
            assert (spec.source_task, spec.source_sha256) == (origin.task, origin.sha256)
            assert spec.training == plan.transfer_training
        else:
            assert spec.source_task is None
            assert spec.source_sha256 is None
        if spec.init == "scratch":
            assert spec.training == plan.scratch_training
    with pytest.raises(InputError, match="no source adapter is known"):
        target_specs(plan, inputs, {})


def test_untrained_does_not_depend_on_the_recipe(demo):
    plan, inputs = demo
    other = replaced(plan, strategies=["scratch"], scratch_training=TrainConfig(steps=3), seeds=[5])
    first, second = (
        next(s for s in target_specs(p, inputs, origins_of(p)) if s.init == "untrained") for p in (plan, other)
    )
    assert first.fingerprint == second.fingerprint


def test_more_test_rows_than_there_are_is_all_of_them(demo):
    plan, inputs = demo
    for asked in (10**5, 10**6):
        spec = source_specs(replaced(plan, test_rows=asked), inputs)[0]
        assert spec.test_rows == len(inputs.splits["amazon-polarity"].test)


def test_fresh_rows_for_a_study_of_its_own(demo):
    """Rows of the reserve stand in no other test, draw or source; sources are tested where they always are."""
    plan, inputs = demo
    asked = replaced(plan, test_split="reserve", register=False, test_rows=10_000)
    specs = target_specs(asked, inputs, origins_of(asked))
    for spec in specs:
        splits = inputs.splits[spec.task]
        tuned = {
            row.id for n in (24, 60, 100) for row in subset(splits.validation, n, 0)
        }  # as tests/bench/recipe.py did
        fresh = {row.id for row in (*splits.validation, *splits.judge)} - tuned
        assert 0 <= len(fresh) - spec.test_rows < 5  # a class may have a row less in a larger sample
        found = {row.id for row in rows_to_test(splits, spec.test_rows, True)}
        assert len(found) == spec.test_rows
        assert found <= fresh
        few = rows_to_test(splits, 60, True)
        assert len(few) == 60
        assert {row.id for row in few} <= {row.id for row in splits.judge}
        shots, checks = few_shot(splits, 16, 0, 2)
        assert not found & {row.id for row in (*splits.test, *shots, *checks)}
        old = spec.model_copy(update={"tested_on": "test"})
        assert old.fingerprint != spec.fingerprint
        untested = spec.model_copy(update={"test_rows": 0})
        assert untested.fingerprint == untested.model_copy(update={"tested_on": "test"}).fingerprint
    assert {spec.tested_on for spec in source_specs(asked, inputs)} == {"test"}
    for changes in ({"register": True}, {"validation": "full"}, {"shots": ["all"]}):
        with pytest.raises(InputError, match="test_split"):
            replaced(asked, **changes)


def test_baselines_have_the_budget_of_scratch(demo):
    plan, inputs = demo
    methods = ["dept", "prompt-tuning", "lora", "lora-r8", "full", "in-context"]
    plan = replaced(plan, methods=methods, strategies=["scratch"], shots=[4], seeds=[0])
    by_method = {s.method: s for s in target_specs(plan, inputs, {}) if s.task == "movie-polarity" and s.shots}
    assert list(by_method) == methods
    usual = {"lora": 1e-3, "lora-r8": 1e-3, "full": 1e-4}
    for method in methods[:-1]:
        rate = usual.get(method, plan.scratch_training.lr_prompt)
        pair = pytest.approx(rate / 10)
        assert by_method[method].training.lr_prompt == rate
        assert by_method[method].training.lr_low_rank == pair
        same = {"lr_prompt": 0.0, "lr_low_rank": 0.0}
        assert by_method[method].training.model_copy(update=same) == plan.scratch_training.model_copy(update=same)
    assert by_method["in-context"].training.steps == 0
    tuned = by_method["prompt-tuning"].adapter
    assert tuned.r == 0
    assert abs(tuned.trainable(576) - plan.adapter.trainable(576)) <= 576 / 2
    assert {s.data_hash for s in by_method.values()} == {inputs.splits["movie-polarity"].data_hash}


def test_rates_are_searched_on_shots_of_their_own(demo):
    plan, inputs = demo
    plan = replaced(plan, rates={"dept": [1e-3, 1e-2], "transfer": [1e-3, 3e-3], "prompt-tuning": [0.1]})
    plan = replaced(plan, methods=["dept", "prompt-tuning"])
    tried = search_specs(plan, inputs, origins_of(plan))
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
    specs = target_specs(plan, inputs, origins_of(plan), {("dept", ""): (1e-2, 1e-3), ("transfer", ""): (3e-3, 3e-4)})
    rates = {(s.variant, s.training.lr_prompt) for s in specs if s.init != "untrained"}
    assert rates == {("scratch", 1e-2), ("best-source", 3e-3), ("prompt-tuning", 0.1)}


def test_rates_may_be_searched_on_several_draws(demo):
    plan, inputs = demo
    plan = replaced(plan, rates={"dept": [1e-3, 1e-2], "transfer": [1e-3, 3e-3]}, search_draws=3)
    searched = {(name, 2**31 + i) for name in plan.targets for i in range(3)}
    for specs in search_specs(plan, inputs, origins_of(plan)).values():
        assert len(specs) == len(searched)
        assert {(spec.task, spec.seed) for spec in specs} == searched
    assert len(to_start(plan)) == len(draws(plan)) + len(searched)
    with pytest.raises(InputError, match="search_draws: must be a whole number from 1 to 100"):
        with_settings(plan, ["search_draws=0"])


@pytest.mark.parametrize(
    "searched", [{}, {"rates": {"transfer": [0.1, 0.2]}}, {"low_rank_rates": {"transfer": [1, 2]}}]
)
def test_a_search_of_transfer_needs_starts_for_its_draws(demo, searched):
    plan, inputs = demo
    plan = replaced(plan, **searched)
    tried = [spec for specs in search_specs(plan, inputs, origins_of(plan)).values() for spec in specs]
    started = {(draw.target, draw.shots, draw.seed) for draw, _ in to_start(plan)}
    assert started >= {(spec.task, spec.shots, spec.seed) for spec in tried}
    assert len(started) == len(draws(plan)) + (len(plan.targets) if searched else 0)


def test_groups_grids_and_all_rows(demo):
    plan, inputs = demo
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
    tried = search_specs(plan, inputs, {})
    assert [rate for _, rate in tried] == [(0.3, 1e-4), (0.3, 1e-3), (0.5, 1e-4), (0.5, 1e-3)]
    chosen = {("dept", "movie-polarity"): (0.3, 1e-3), ("dept", "tweet-polarity"): (0.5, 1e-4)}
    movie, tweet = (spec for spec in target_specs(plan, inputs, {}, chosen) if spec.init == "scratch")
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
    plan, inputs = demo
    strategies = ["scratch", "best-source", "multitask"]
    *single, together = source_specs(replaced(plan, strategies=strategies), inputs)
    assert together.members == tuple(plan.sources)
    assert together.test_rows == 0
    assert together.training.steps == sum(spec.training.steps for spec in single)
    assert together.data_hash not in {spec.data_hash for spec in single}


@pytest.mark.parametrize(
    ("strategies", "single", "together"),
    [
        (["scratch"], [], 0),
        (["scratch", "source:nyt-polarity"], ["nyt-polarity"], 0),
        (["multitask"], [], 1),
        (["scratch", "similar"], ["amazon-polarity", "nyt-polarity"], 0),
    ],
)
def test_sources_that_no_strategy_starts_from_are_not_trained(demo, strategies, single, together):
    plan, inputs = demo
    plan = replaced(plan, strategies=strategies)
    assert needed_sources(plan) == single
    specs = source_specs(plan, inputs)
    assert [spec.task for spec in specs] == single + ["multitask"] * together
    assert source_specs(replaced(plan, methods=["prompt-tuning"], strategies=["scratch"]), inputs) == []


def test_places_that_cannot_be_run_are_left_out(demo):
    plan, inputs = demo
    origins = origins_of(plan)
    gone = (Draw("movie-polarity", 4, 1), "dept", "best-source")
    del origins[gone[0], gone[2]]
    every = target_specs(plan, inputs, origins_of(plan))
    left = target_specs(plan, inputs, origins, missing={gone: "failed"})
    assert {spec.label for spec in every} - {spec.label for spec in left} == {
        "movie-polarity/k4/s1/best-source:nyt-polarity"
    }
    searched = replaced(plan, rates={"transfer": [1e-3, 3e-3]})
    lost = (Draw("movie-polarity", 16, 2**31), "best-source")
    for specs in search_specs(searched, inputs, origins_of(plan), {lost: "failed"}).values():
        assert [spec.task for spec in specs] == ["tweet-polarity"]


def test_what_a_start_is_made_of_is_part_of_the_question_and_how_it_was_found_is_not(demo):
    plan, inputs = demo
    strategies = ["source:nyt-polarity", "best-source", "prompt-only"]
    plan = replaced(plan, strategies=strategies, shots=[4], seeds=[0], methods=["dept", "in-context"])
    origins = {(draw, strategy): Origin("nyt-polarity", "a" * 64) for draw, strategy in to_start(plan)}
    specs = {s.variant: s for s in target_specs(plan, inputs, origins) if s.task == "movie-polarity"}
    assert {variant: spec.start for variant, spec in specs.items()} == {
        "untrained": "text",
        "source:nyt-polarity": "source",
        "best-source": "source",
        "prompt-only": "prompt",
        "in-context": "shots",
    }
    assert specs["source:nyt-polarity"].fingerprint == specs["best-source"].fingerprint
    assert specs["prompt-only"].fingerprint != specs["best-source"].fingerprint


def test_trials_of_before_strategies_had_names_are_still_read(demo):
    """A ledger keeps specs as JSON; one of an earlier version must not end `dept trials`."""
    plan, inputs = demo
    old = source_specs(plan, inputs)[0].model_dump() | {"role": "target", "init": "transfer", "source_task": "x"}
    for key in ("per_class", "members"):
        del old[key]
    spec = TrialSpec.model_validate(old)
    assert spec.transfers
    assert spec.label.endswith("/transfer:x")


def test_what_takes_seconds_is_shown_beside(demo):
    """Probe and TF-IDF of each draw, though no method asks for them; not of a whole split, which takes longer."""
    plan, inputs = demo
    plan = replaced(plan, beside=["probe", "tfidf"], strategies=["scratch"], shots=[16, "all"], seeds=[0])
    shown = [spec for spec in target_specs(plan, inputs, {}) if spec.method in ("probe", "tfidf")]
    assert [(spec.task, spec.method, spec.shots) for spec in shown] == [
        (target, method, 16) for target in TARGETS for method in ("probe", "tfidf")
    ]
    assert not [s for s in target_specs(replaced(plan, engine="deepspeed"), inputs, {}) if s.method == "probe"]
