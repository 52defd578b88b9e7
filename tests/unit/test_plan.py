import subprocess
import sys
from pathlib import Path

import pytest

from dept.config import TrainConfig
from flows.plan import Plan, check
from flows.plan_file import load_plan, replaced
from flows.specs import source_specs, target_specs
from tasks.errors import InputError

DEMO = Path(__file__).parents[2] / "flows" / "plans" / "demo.yaml"
BACKBONE_ID = "b" * 64


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def own(folder, rows):
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return write(
        folder,
        """
own_tasks:
  - name: mine
    template: "{text} Mood:"
    verbalizer: {good: great, bad: awful}
    source: {kind: file, path: rows.csv}
targets: [mine]
sources: [amazon-polarity]
shots: [4]
seeds: [0]
""",
    )


def rows(n_good, n_bad):
    return [(f"lovely thing number {i}", "good") for i in range(n_good)] + [
        (f"dreadful thing number {i}", "bad") for i in range(n_bad)
    ]


def test_demo_is_what_the_product_promises():
    plan = load_plan("demo")
    assert (plan.name, plan.backbone, len(plan.sources), len(plan.targets)) == ("demo", "smollm2-135m", 2, 2)
    assert (plan.shots, len(plan.seeds), plan.inits, plan.test_rows) == ([16], 2, ["scratch", "transfer"], 200)
    assert load_plan(DEMO) == plan


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_rows: 200", "test_rowz: 200", "test_rowz: unknown key; did you mean test_rows?"),
        ("test_rows: 200", "test_rows: -200", "test_rows: input should be greater than or equal to 1, got -200"),
        ("shots: [16]", "shots: [16, -4]", "shots.1: input should be greater than or equal to 1, got -4"),
        ("shots: [16]", "shots: []", "shots: list should have at least 1 item"),
        ("shots: [16]", "shots: [16, 16]", "shots: 16 is listed twice"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds.0"),
        ("steps: 40", "steps: -40", "source_training.steps: input should be greater than or equal to 0, got -40"),
        ("{m: 10,", "{n: 10,", "adapter.n: unknown key"),
        ("alpha: 8.0", "alpha: 0", "adapter.alpha"),
        ("inits: [scratch, transfer]", "inits: [scratch, magic]", "inits.1: input should be 'scratch' or 'transfer'"),
        (
            "[movie-polarity, tweet-polarity]",
            "[movie-polarty]",
            "targets: unknown task 'movie-polarty'; did you mean movie-polarity?",
        ),
        ("[movie-polarity, tweet-polarity]", "[amazon-polarity]", "amazon-polarity is also a source"),
        ("[amazon-polarity, nyt-polarity]", "[]", "transfer needs at least one source"),
        (
            "transfer_from: best",
            "transfer_from: {movie-polarity: sms-spam}",
            "transfer_from.movie-polarity: sms-spam is no source",
        ),
        ("transfer_from: best", "transfer_from: {sms-spam: nyt-polarity}", "sms-spam is no target"),
        ("transfer_from: best", "test_rows: 3", "key 'test_rows' appears twice"),
        ("transfer_from: best", "device: gpu", "device: string should match"),
        ("transfer_from: best", "engine: horovod", "engine"),
        ("targets:", "- targets:", "not valid YAML"),
    ],
)
def test_bad_plans_end_with_one_line(tmp_path, old, new, said):
    text = DEMO.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(InputError) as caught:
        load_plan(write(tmp_path, text.replace(old, new, 1)))
    message = str(caught.value)
    assert said in message
    assert message.startswith("plan ")
    assert "\n" not in message
    assert "pydantic" not in message


def test_plans_that_are_no_plans(tmp_path):
    with pytest.raises(InputError, match=r"plan dem: unknown; did you mean demo\? Shipped plans: demo"):
        load_plan("dem")
    with pytest.raises(InputError, match=r"no such file\. Shipped plans: demo"):
        load_plan(tmp_path / "none.yaml")
    for text, said in (("", "expected keys"), ("[1]", "expected keys"), ("name: x", "targets: missing")):
        with pytest.raises(InputError, match=said):
            load_plan(write(tmp_path, text))
    (tmp_path / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_plan(tmp_path / "latin.yaml")


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
        (rows(5, 5), "task mine: k=4 shots .* use k <= 2"),
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


@pytest.fixture(scope="module")
def demo():
    plan = replaced(load_plan("demo"), shots=[4, 16], source_rows=100)
    return plan, plan.resolve_tasks(), check(plan)


def test_sources_are_one_trial_each(demo):
    plan, tasks, splits = demo
    specs = source_specs(plan, tasks, splits, BACKBONE_ID)
    assert [spec.task for spec in specs] == plan.sources
    assert {(spec.role, spec.init, spec.shots, spec.seed, spec.train_rows) for spec in specs} == {
        ("source", "scratch", None, plan.seeds[0], 100)
    }
    assert specs[0].data_hash == splits["amazon-polarity"].data_hash
    assert specs[0].backbone_id == BACKBONE_ID
    assert specs[0].training == plan.source_training


def test_targets_are_shots_by_seeds_by_inits_and_one_untrained(demo):
    plan, tasks, splits = demo
    sources = {
        (target, k, seed): ("nyt-polarity" if k == 4 else "amazon-polarity", f"{seed}" * 64)
        for target in plan.targets
        for k in plan.shots
        for seed in plan.seeds
    }
    specs = target_specs(plan, tasks, splits, BACKBONE_ID, sources)
    assert len(specs) == 2 * (1 + 2 * 2 * 2)
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert {spec.role for spec in specs} == {"target"}
    untrained = [spec for spec in specs if spec.init == "untrained"]
    assert [spec.task for spec in untrained] == plan.targets
    assert {(spec.training.steps, spec.shots, spec.seed) for spec in untrained} == {(0, None, 0)}
    for spec in specs:
        if spec.init == "transfer":
            assert (spec.source_task, spec.source_sha256) == sources[spec.task, spec.shots, spec.seed]
            assert spec.training == plan.transfer_training
        else:
            assert spec.source_task is None
            assert spec.source_sha256 is None
        if spec.init == "scratch":
            assert spec.training == plan.scratch_training
    with pytest.raises(InputError, match="no source adapter is known"):
        target_specs(plan, tasks, splits, BACKBONE_ID, {})


def test_untrained_does_not_depend_on_the_recipe(demo):
    plan, tasks, splits = demo
    other = replaced(plan, inits=["scratch"], scratch_training=TrainConfig(steps=3), seeds=[5])
    first, second = (
        next(
            s
            for s in target_specs(
                p,
                tasks,
                splits,
                BACKBONE_ID,
                {(t, k, s): ("x", "y") for t in p.targets for k in p.shots for s in p.seeds},
            )
            if s.init == "untrained"
        )
        for p in (plan, other)
    )
    assert first.fingerprint == second.fingerprint


def test_more_test_rows_than_there_are_is_all_of_them(demo):
    plan, tasks, splits = demo
    for asked in (10**5, 10**6):
        spec = source_specs(replaced(plan, test_rows=asked), tasks, splits, BACKBONE_ID)[0]
        assert spec.test_rows == len(splits["amazon-polarity"].test)


def test_replaced_checks_again_and_sources_can_be_fixed():
    plan = load_plan("demo")
    with pytest.raises(InputError, match="device"):
        replaced(plan, device="abacus")
    fixed = replaced(plan, transfer_from={"movie-polarity": "nyt-polarity"})
    assert fixed.fixed_source("movie-polarity") == "nyt-polarity"
    assert fixed.fixed_source("tweet-polarity") is None
    assert plan.fixed_source("movie-polarity") is None


def test_every_field_is_described_for_the_form():
    schema = Plan.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


def test_importing_the_plan_pulls_in_neither_torch_nor_prefect():
    code = (
        "import sys, flows.plan_file, flows.specs, flows.cli; "
        "print([name for name in ('torch', 'prefect', 'mlflow', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEMO.parents[2]
    )
    assert result.stdout.strip() == "[]"
