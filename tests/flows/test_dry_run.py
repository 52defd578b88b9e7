"""`dept run PLAN --dry-run`: what is counted, by hand and against what a run trains; nothing is fetched or trained."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dept.trial import TrialOutcome
from flows.cli.cost_table import _short, _span
from flows.planning.backbone_cost import WIDTHS
from flows.planning.cost import estimate
from flows.planning.plan_file import load_plan
from infra.settings import home
from tests.flows.test_cli import dept, refused

HUB_ROWS = Path(__file__).parents[1] / "tasks" / "hub_rows"
SIX = 6  # tokens of "zzz 12": the tiny tokenizer knows the bytes alone


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch):
    monkeypatch.setattr("tasks.sources.hub._remote", lambda *_: pytest.fail("a dry run must not go to the hub"))
    monkeypatch.delenv("DEPT_DATA", raising=False)


@pytest.fixture
def plan(tmp_path, tiny_folders):
    def write(**changes):
        block = {"template": "{text}", "verbalizer": {"a": "good", "b": "bad"}}
        own = {}
        for start, name in enumerate(("one", "two", "three", "four")):
            rows = "".join(f"zz{'wxyz'[start]} {i},{'ab'[i % 2]}\n" for i in range(10, 90))
            (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
            own[name] = block | {"source": {"kind": "file", "path": f"{name}.csv"}}
        body = {
            "backbone": str(tiny_folders["llama"]),
            "device": "cpu",
            "own_tasks": own,
            "sources": ["one", "two"],
            "targets": ["three", "four"],
            "shots": [4],
            "seeds": [0, 1, 2],
            "test_rows": 5,
            "methods": ["dept"],
            "beside": [],
            "adapter": {"m": 4, "r": 2, "s": 16},
            "source_training": {"steps": 10, "batch_size": 8, "eval_every": 5},
            "scratch_training": {"steps": 6, "batch_size": 8, "eval_every": 4},
            "transfer_training": {"steps": 3, "batch_size": 2, "eval_every": 3},
            "source_validation_rows": 7,
            "probe_steps": 2,
        } | changes
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    return write


def lines(path):
    found = estimate(load_plan(path))
    return {(line.stage, line.variant): line for line in found.lines}, found


def test_every_stage_is_counted(plan):
    counted, found = lines(plan())
    dept_numbers = 4 * 32 + (16 + 32) * 2
    expected = {
        # stage, variant: trials, steps of all, trained tokens, evaluated tokens
        ("sources", "each"): (2, 20, 2 * 10 * 8 * SIX, 2 * (3 * 7 + 5) * SIX),
        ("choice", "best-source"): (2 * 3 * 2, 24, 12 * 2 * 2 * SIX, 12 * 2 * 4 * SIX),
        ("targets", "untrained"): (2, 0, 0, 2 * 5 * SIX),
        # Four shots: batches of four; their texts are read once more, for calibration.
        ("targets", "scratch"): (6, 36, 6 * 6 * 4 * SIX, 6 * (3 * 4 + 4 + 5) * SIX),
        ("targets", "best-source"): (6, 18, 6 * 3 * 2 * SIX, 6 * (2 * 4 + 4 + 5) * SIX),
    }
    assert set(counted) == set(expected)
    for key, (trials, steps, trained, evaluated) in expected.items():
        line = counted[key]
        assert (line.trials, line.steps, line.trained, line.evaluated) == (trials, steps, trained, evaluated), key
        assert not line.bound
        assert line.numbers == [0 if key[1] == "untrained" else dept_numbers] * trials
    assert found.speed > 0
    assert found.seconds(counted["targets", "scratch"]) > 0


def test_all_strategies_and_a_search(plan):
    strategies = ["scratch", "source:one", "best-source", "similar", "mixture", "multitask", "prompt-only"]
    counted, _ = lines(
        plan(strategies=strategies, rates={"dept": [0.1, 0.2], "transfer": [0.1, 0.2, 0.3]}, search_draws=2)
    )
    draws, searched = 2 * 3, 2 * 2
    assert counted["sources", "multitask"].trials == 1
    assert counted["sources", "multitask"].steps == 20
    assert counted["search", "scratch"].trials == 2 * searched
    assert counted["search", "best-source"].trials == 3 * searched
    assert counted["choice", "best-source"].trials == (draws + searched) * 2  # rates are searched on its starts
    assert counted["choice", "similar"].steps == draws * 2
    assert counted["choice", "mixture"].steps == draws * 3
    assert ("choice", "prompt-only") not in counted  # the same question as best-source
    assert {variant for stage, variant in counted if stage == "targets"} == {*strategies, "untrained"}
    assert all(line.trials == draws for (stage, v), line in counted.items() if stage == "targets" and v != "untrained")
    counted, _ = lines(plan(strategies=["prompt-only"]))
    assert counted["choice", "prompt-only"].trials == draws * 2


def test_searches_of_recipes_are_counted(plan):
    """Nine candidates to step 2, of them three to 4, of them one to 8: 28 steps in each of two folds."""
    search = {"candidates": 9, "steps": 8, "eval_every": 2, "rungs": [2, 4]}
    counted, _ = lines(plan(methods=["auto"], search=search))
    assert {key for key in counted if key[0] in ("recipes", "targets")} == {
        *(("recipes", kind) for kind in ("auto", "probe", "tfidf")),
        *(("targets", kind) for kind in ("auto, together", "untrained", "probe", "tfidf")),
    }
    line = counted["recipes", "auto"]
    assert (line.trials, line.steps, line.trained) == (6, 6 * 56, 6 * 56 * 4 * SIX)
    members = counted["targets", "auto, together"]
    assert (members.trials, members.steps) == (6 * 4, 6 * 4 * 8)  # at most: a search may find fewer
    assert counted["ensembles", "auto"].trials == 6
    counted, _ = lines(plan(methods=["auto"], search={**search, "together": 1}))
    assert counted["targets", "auto"].steps == 6 * 8
    counted, _ = lines(plan(methods=["dept"], search=search))
    assert counted["recipes", "scratch"].steps == counted["recipes", "best-source"].steps == 6 * 56
    assert counted["targets", "scratch"].trained == 6 * 8 * 8 * SIX  # four shots and four more: batches of eight


def test_what_the_ledger_holds_is_left_out(plan):
    loaded = load_plan(plan())
    whole = estimate(loaded)

    class Held:
        """A ledger in which the sources are finished, and what was tried on them."""

        def __init__(self, stages):
            self.stages = stages

        def find(self, **_):
            return []

        def outcomes(self, fingerprints):
            self.stages -= 1
            if self.stages < 0:
                return {}
            names = iter(("one", "two", *["three"] * 100))
            return {
                key: TrialOutcome(SimpleNamespace(task=next(names)), key, key, 0, 0, {"loss": 1.0, "score": 1.0})
                for key in fingerprints
            }

    without_sources = estimate(loaded, Held(1))
    assert {line.stage for line in without_sources.lines} == {"choice", "targets"}
    assert any("2 trials that the ledger holds are left out" in note for note in without_sources.notes)
    targets = [line for line in whole.lines if line.stage == "targets"]
    assert estimate(loaded, Held(2)).lines == targets  # what they start from is known, and nothing else is done
    assert estimate(loaded, Held(100)).lines == []


def test_numbers_of_the_baselines_are_those_that_are_trained(plan, tiny_folders):
    from dept.backbones.loading import load_model

    counted, _ = lines(plan(methods=["dept", "prompt-tuning", "lora", "full", "in-context"]))
    assert set(counted["targets", "prompt-tuning"].numbers) == {7 * 32}
    model = load_model(str(tiny_folders["llama"]), torch.float32).requires_grad_(False)
    assert set(counted["targets", "full"].numbers) == {sum(p.numel() for p in model.parameters())}
    assert set(counted["targets", "in-context"].numbers) == {0}
    assert counted["targets", "in-context"].evaluated == 6 * (5 * (1 + 4) + 4) * SIX  # the shots before each text
    (lora,) = set(counted["targets", "lora"].numbers)
    if importlib.util.find_spec("peft"):
        from dept.baselines.lora import attach

        attach(model, 1, 0)  # the least there is: more than DePT's 224
        assert lora == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_linear_baselines_read_each_row_once_and_train_no_token(plan):
    """Shots and as many validation rows of six draws, five test rows of two tasks; a head over two layers at most."""
    shape = {"m": 4, "r": 2, "s": 24}
    counted, _ = lines(plan(methods=["dept", "probe", "tfidf"], adapter={**shape, "answers": "both"}))
    probe, words, scratch = (counted["targets", variant] for variant in ("probe", "tfidf", "scratch"))
    assert (probe.steps, probe.trained, set(probe.numbers)) == (0, 0, {2 * (2 * 32 + 1)})
    assert probe.evaluated == (6 * (4 + 4) + 2 * 5) * SIX
    assert (words.trials, words.steps, words.evaluated, set(words.numbers)) == (6, 0, 0, {None})
    plain, _ = lines(plan(methods=["dept"], adapter=shape))
    assert scratch.evaluated - plain["targets", "scratch"].evaluated == 6 * (4 + 4) * SIX, "what a head is fitted on"
    assert set(scratch.numbers) == {plain["targets", "scratch"].numbers[0] + 2 * (2 * 32 + 1)}


def test_long_texts_count_as_they_are_cut(plan):
    """A probe reads more of them than an adapter, and what its search has read is not read again."""
    counted, _ = lines(plan(adapter={"m": 4, "r": 2, "s": 5}, methods=["dept", "probe"]))
    assert counted["targets", "scratch"].trained == 6 * 6 * 4 * 5
    assert counted["targets", "probe"].evaluated == (6 * (4 + 4) + 2 * 5) * SIX
    counted, _ = lines(plan(adapter={"m": 4, "r": 2, "s": 5}, methods=["auto"]))
    assert counted["recipes", "probe"].evaluated == 6 * (4 + 4) * SIX
    short = {
        name: {**block, "max_length": 3} for name, block in yaml.safe_load(plan().read_text())["own_tasks"].items()
    }
    counted, _ = lines(plan(own_tasks=short, methods=["dept", "probe"]))
    assert counted["targets", "scratch"].trained == 6 * 6 * 4 * 3
    assert counted["targets", "probe"].evaluated == (6 * (4 + 4) + 2 * 5) * 3


def test_the_table_and_its_sum(plan):
    result = dept("run", str(plan()), "--dry-run")
    assert result.exit_code == 0, result.output
    (total,) = [line for line in result.stdout.splitlines() if line.strip().startswith("all")]
    assert total.split()[1:4] == ["28", "98", f"{(2 + 12 + 12) * 224:,}"]
    assert "tokens a second, from a probe of at most 10 s" in result.stdout
    assert not home().exists()


def test_out_of_reach_bounds_and_widths_from_the_table(plan):
    body = {"backbone": "google-t5/t5-base", "own_tasks": {}, "sources": ["mnli"], "targets": ["rte", "stsb"]}
    path = plan(**body, adapter={"m": 40, "r": 45, "s": 256}, source_rows=64)
    result = dept("run", str(path), "--dry-run")
    assert result.exit_code == 0, result.output
    for said in (
        "Backbone google-t5/t5-base is not on this machine: width d = 768, from a table.",
        "Time: not known, since the backbone is not here.",
        "Rows that are not on this machine: mnli, rte, stsb.",
        "76,800",
        "≤",
    ):
        assert said in result.stdout
    counted, found = lines(path)
    assert counted["targets", "scratch"].trained == 6 * 6 * 4 * 256
    assert counted["targets", "scratch"].bound
    assert counted["targets", "scratch"].evaluated == 0  # how many rows there are, is not known
    assert found.speed is None
    assert not home().exists()


def test_a_backbone_nobody_knows(plan):
    result = dept("run", str(plan(backbone="someone/great-model", methods=["dept", "full"])), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "its width d is unknown" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if "scratch" in line]
    assert line.count("unknown") == 2


def test_local_rows_count_without_the_backbone(plan, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(HUB_ROWS))
    path = plan(backbone="t5-base", own_tasks={}, sources=["mnli"], targets=["mrpc"], shots=[1], seeds=[0])
    counted, found = lines(path)
    assert not any("Rows that are not" in note for note in found.notes)
    assert all(line.bound for line in counted.values())  # the tokenizer is not here


def test_bad_input_is_found_as_in_a_run(plan):
    refused(dept("run", str(plan(shots=[4000])), "--dry-run"), "task three: k=4000 shots", "use k <= ")
    refused(dept("run", str(plan(backbone="/no/such/folder")), "--dry-run"), "no such folder")
    refused(dept("run", "dmo", "--dry-run"), "did you mean demo?")


def test_widths_are_those_of_the_models():
    assert (WIDTHS["t5-small"], WIDTHS["t5-base"], WIDTHS["t5-large"]) == (512, 768, 1024)
    assert (WIDTHS["gpt2"], WIDTHS["gpt2-medium"]) == (768, 1024)


def test_how_numbers_and_spans_are_said():
    assert [_short(n) for n in (999, 1500, 2.5e6, 3e9)] == ["999", "1.5 k", "2.5 M", "3 G"]
    assert [_span(s) for s in (None, 59, 90, 7200, 86400 * 3)] == ["–", "59 s", "1.5 min", "2 h", "3 d"]


@pytest.mark.parametrize("lost", ["train", "validation"])
def test_an_own_file_that_is_not_there_is_a_fault(plan, lost):
    source = {"kind": "file", "path": "three.csv"} | {"path" if lost == "train" else lost: "nowhere.csv"}
    block = {"template": "{text}", "verbalizer": {"a": "good", "b": "bad"}, "source": source}
    path = plan(own_tasks={"mine": block}, sources=[], targets=["mine"], strategies=["scratch"])
    result = dept("run", str(path), "--dry-run")
    assert result.exit_code == 2, result.output
    assert "nowhere.csv: no such file" in result.stderr
