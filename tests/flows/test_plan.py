import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dept.config import TrainConfig
from flows.cli.plan import keys
from flows.planning.check import check
from flows.planning.defaults import SCRATCH_TRAINING, TRANSFER_TRAINING
from flows.planning.explain import PARTS, explained
from flows.planning.plan import Plan
from flows.planning.plan_file import keys_that_differ, load_plan, replaced, shipped_plans, with_settings
from infra.errors import InputError
from tasks.load import load_splits
from tasks.plain import fold

DEMO = Path(__file__).parents[2] / "flows" / "plans" / "demo.yaml"


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
    assert (plan.shots, len(plan.seeds), plan.strategies, plan.methods) == (
        [16],
        2,
        ["scratch", "best-source"],
        ["dept", "probe", "tfidf"],
    )
    assert load_plan(DEMO) == plan


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_rows: 60", "test_rowz: 60", "test_rowz: unknown key; did you mean test_rows?"),
        ("test_rows: 60", "test_rows: -200", "test_rows: must be a whole number from 1 to 1,000,000, got -200"),
        ("shots: [16]", "shots: [16, -4]", "shots.1: must be a whole number from 1 to 10,000 or all, got -4"),
        ("shots: [16]", "shots: []", "shots: must be a list of 1 to 20"),
        ("shots: [16]", "shots: [16, 16]", "shots: 16 is listed twice"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds.0"),
        ("steps: 40", "steps: -40", "source_training.steps: must be a whole number from 0 to 10,000,000, got -40"),
        ("{m: 10,", "{n: 10,", "adapter.n: unknown key"),
        ("alpha: 8.0", "alpha: 0", "adapter.alpha"),
        ("[scratch, best-source]", "[scratch, magic]", "strategies.1: 'magic' is unknown"),
        ("[scratch, best-source]", "[scratch, scratch]", "strategies: scratch is listed twice"),
        ("methods: [dept, probe, tfidf]", "methods: [dept, lorra]", "methods.1"),
        ("probe_steps: 0", "rates: {lora: [-1]}", "rates.lora.0"),
        (
            "[movie-polarity, bbc-topic]",
            "[movie-polarty, bbc-topic]",
            "targets: unknown task 'movie-polarty'; did you mean movie-polarity?",
        ),
        ("[movie-polarity, bbc-topic]", "[amazon-polarity, bbc-topic]", "amazon-polarity is also a source"),
        ("[amazon-polarity, nyt-polarity]", "[]", "transfer needs at least one source"),
        ("[scratch, best-source]", '["source:sms-spam"]', "strategies: source:sms-spam: sms-spam is no source"),
        ("probe_steps: 0", "test_rows: 3", "key 'test_rows' stands there twice"),
        ("probe_steps: 0", "device: gpu", "device: must be cpu, mps, cuda or cuda:N, got 'gpu'"),
        ("probe_steps: 0", "engine: horovod", "engine"),
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


def test_keys_are_set_on_the_command_line():
    plan = load_plan("demo")
    changed = with_settings(plan, ["shots=[4, 8]", "scratch_training.steps=3", "rates.dept=[0.1]", "dtype=bfloat16"])
    assert changed == replaced(
        plan,
        shots=[4, 8],
        scratch_training=plan.scratch_training.model_dump() | {"steps": 3},
        rates={"dept": [0.1]},
        dtype="bfloat16",
    )
    assert with_settings(plan, []) == plan


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("shots", "expected KEY=VALUE"),
        ("=4", "expected KEY=VALUE"),
        ("shots.=4", "expected KEY=VALUE"),
        ("shots=[4", "not valid YAML"),
        ("shots=4", "shots: must be a list"),
        ("shos=[4]", "shos: unknown key; did you mean shots"),
        ("scratch_training.stepz=4", "scratch_training.stepz: unknown key; did you mean steps"),
        ("shots.first=4", "no keys within shots; set it as a whole"),
        ("targets=[movie-polaritie, bbc-topic]", "did you mean movie-polarity"),
    ],
)
def test_a_wrong_setting_is_named(setting, said):
    with pytest.raises(InputError, match=re.escape(said)):
        with_settings(load_plan("demo"), [setting])


def test_held_out_rows_are_kept_out_of_the_sources():
    plan = Plan(name="leak", sources=["trec-coarse"], targets=["trec-fine"], shots=[4], seeds=[0])
    splits = check(plan)
    held = {fold(row.text) for row in (*splits["trec-fine"].test, *splits["trec-fine"].validation)}
    source = splits["trec-coarse"]
    assert source.dropped["leaked"] > 100
    assert not held & {fold(row.text) for row in (*source.train, *source.validation)}
    assert source.data_hash != load_splits(plan.resolve_tasks()["trec-coarse"]).data_hash


@pytest.mark.parametrize("written", ["./model", "model", "../here/model"])
def test_a_backbone_folder_counts_from_the_plan(tmp_path, monkeypatch, written):
    here = tmp_path / "here"
    (here / "model").mkdir(parents=True)
    (here / "model" / "config.json").write_text("{}")
    path = write(here, f"backbone: {written}\ntargets: [movie-polarity]\nstrategies: [scratch]\n")
    monkeypatch.chdir(tmp_path)
    assert load_plan(path).backbone == str(here / "model")
    assert load_plan(path) == load_plan(path.relative_to(tmp_path))
    changed = with_settings(load_plan("demo"), [f"backbone={here / 'model'}"])
    assert changed.backbone == str(here / "model")
    monkeypatch.chdir(here)  # on the command line it counts from where the command is given
    assert with_settings(load_plan("demo"), ["backbone=./model"]).backbone == str(here / "model")
    assert load_plan("demo").backbone == "smollm2-135m"


def test_a_picture_encoder_counts_from_the_plan(tmp_path, monkeypatch):
    (tmp_path / "here" / "clip").mkdir(parents=True)
    (tmp_path / "here" / "clip" / "config.json").write_text("{}")
    body = "targets: [movie-polarity, sms-spam]\nstrategies: [scratch]\nadapter: {pictures: {encoder: ./clip}}\n"
    body += "groups: [{targets: [sms-spam], adapter: {pictures: {encoder: clip, rank: 2}}}]\n"
    monkeypatch.chdir(tmp_path)
    plan = load_plan(write(tmp_path / "here", body))
    found = {plan.recipe(name).adapter.pictures.encoder for name in plan.targets}
    assert found == {str(tmp_path / "here" / "clip")}
    monkeypatch.chdir(tmp_path / "here")  # on the command line it counts from where the command is given
    for one in (with_settings(load_plan("demo"), ["adapter.pictures={encoder: ./clip}"]), with_settings(plan, [])):
        assert one.adapter.pictures.encoder == str(tmp_path / "here" / "clip")


def test_keys_that_a_training_leaves_out_are_its_own_defaults():
    """Not those of a training of any kind: a plan that changes the steps keeps the rates that it had."""
    body = {"name": "mine", "targets": ["sms-spam"], "strategies": ["scratch"]}
    plan = Plan(**body, scratch_training={"steps": 9}, transfer_training={})
    assert plan.scratch_training == SCRATCH_TRAINING.model_copy(update={"steps": 9})
    assert plan.transfer_training == TRANSFER_TRAINING
    usual = TrainConfig(steps=9)
    assert replaced(plan, scratch_training=usual).scratch_training == usual


@pytest.mark.parametrize("name", [*shipped_plans(), "mine"])
def test_the_keys_that_differ_make_the_same_plan(name):
    usual = TrainConfig().model_dump()
    mine = Plan(name="mine", targets=["sms-spam"], strategies=["scratch"], scratch_training=usual)
    plan = mine if name == "mine" else load_plan(name)
    assert Plan.model_validate(keys_that_differ(plan)) == plan


def test_each_task_is_read_once(monkeypatch):
    from flows.planning import check as module

    read = []

    def load(task):
        read.append(task.name)
        return load_splits(task)

    monkeypatch.setattr(module, "load_splits", load)
    plan = load_plan("demo")
    check(plan)
    assert sorted(read) == sorted([*plan.sources, *plan.targets])


def test_replaced_checks_again():
    with pytest.raises(InputError, match="device"):
        replaced(load_plan("demo"), device="abacus")


def test_every_field_is_described_for_the_form():
    schema = Plan.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


def test_importing_the_plan_pulls_in_neither_torch_nor_prefect():
    code = (
        "import sys, flows.planning.plan_file, flows.planning.trials, flows.cli.main; "
        "print([name for name in ('torch', 'prefect', 'mlflow', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEMO.parents[2]
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "more",
    [
        {"adapter": {"alpha": float("inf")}},
        {"scratch_training": {"lr_prompt": float("inf")}},
        {"scratch_training": {"max_loss": float("inf")}},
        {"rates": {"dept": [float("nan")]}},
    ],
    ids=str,
)
def test_numbers_are_finite(more):
    with pytest.raises(ValidationError) as raised:
        Plan(name="a", targets=["rte"], strategies=["scratch"], **more)
    assert "must be a finite number, got " in explained(raised.value, Plan)


def test_auto_is_the_default_but_not_beside_rates():
    assert Plan(name="a", targets=["rte"], strategies=["scratch"]).methods == ["auto"]
    assert Plan(name="a", targets=["rte"], strategies=["scratch"], rates={"dept": [0.1]}).methods == ["dept"]


def test_the_schema_tells_the_defaults_of_a_plan():
    told = {line["key"]: line for line in keys(Plan, PARTS)}
    plan = Plan(name="a", targets=["rte"], strategies=["scratch"])
    for part in ("adapter", "source_training", "scratch_training", "transfer_training"):
        for name, value in getattr(plan, part).model_dump(mode="json").items():
            shown = yaml.safe_load(told[f"{part}.{name}"]["default"])
            assert shown == ("none" if value is None else value), f"{part}.{name}"
            if part in ("adapter", "scratch_training", "transfer_training"):
                assert told[f"groups[].{part}.{name}"]["default"] == "the plan's"
    assert yaml.safe_load(told["own_tasks[].template"]["default"]) == "{text}\nLabel:"
    assert told["own_tasks"]["may_be"].startswith("`NAME: block`")
    assert told["own_tasks[].source"]["may_be"] == "keys and values"
