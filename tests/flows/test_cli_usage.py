"""What stands before any work: wrong words after `dept`, misspelt variables, folders and addresses that cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.test_cli import COMMANDS, ROOT, dept, refused

READING = (
    ("status", "--json"),
    ("trials", "--json"),
    ("champions", "--json"),
    ("plan", "--json"),
    ("settings", "--json"),
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "run: PLAN is missing. Remedy: dept run --help"),
        (("run", "demo", "--dryrun"), "run: no option --dryrun; did you mean --dry-run. Remedy: dept run --help"),
        (("run", "demo", "more"), "run: got unexpected extra argument (more). Remedy: dept run --help"),
        (("rnu", "demo"), "no command 'rnu'; did you mean run? Known: "),
        (
            ("trials", "--limit", "0"),
            "trials: --limit: must be a whole number from 1 to 1,000,000,000, got '0'. Remedy: ",
        ),
        (("trials", "--limit", "ten"), "trials: --limit: must be a whole number from 1 to 1,000,000,000, got 'ten'."),
        (("up", "--prefect-port", "99999"), "--prefect-port: must be a whole number from 1 to 65,535, got '99999'"),
        (("trials", "show"), "trials show: FINGERPRINT is missing. Remedy: dept trials show --help"),
        (("trials", "shwo", "x"), "trials: no command 'shwo'; did you mean show?"),
        (("predict", "x"), "predict: --task is missing. Remedy: dept predict --help"),
        (("predict", "--task", "x", "--format", "xls"), "predict: --format: 'xls' is unknown; known: csv, tsv"),
        (("retrain", "--margin", "two"), "retrain: --margin: must be a number, got 'two'"),
        (("tasks", "check"), "tasks check: WHAT is missing. Remedy: dept tasks check --help"),
        (("run", "--set"), "run: option '--set' requires an argument. Remedy: dept run --help"),
        (("--nonsense", "x"), "no option --nonsense"),
    ],
)
def test_usage_errors_are_one_line_with_the_help_to_read(words, said):
    result = dept(*words)
    refused(result, said)
    assert "nput should" not in result.stderr


def test_a_usage_error_in_a_pipe_is_plain():
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: run: PLAN is missing. Remedy: dept run --help\n"


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_a_misspelt_variable_is_named_once(monkeypatch, words):
    monkeypatch.setenv("DEPT_LEDGERURL", "sqlite:///x.db")
    monkeypatch.setenv("DEPT_X_SERVICE_HOST", "10.0.0.1")  # Kubernetes tells of a service so
    monkeypatch.setenv("DEPT_X_PORT", "tcp://10.0.0.1:80")
    result = dept(*words)
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    told = "note: DEPT_LEDGERURL is set, but there is no such setting; did you mean DEPT_LEDGER_URL?"
    assert result.stderr.splitlines().count(told) == 1
    assert "DEPT_X" not in result.stderr
    assert "DEPT_LEDGERURL" not in dept(*words, "-q").stderr


def test_a_misspelt_variable_is_named_beside_an_error(monkeypatch):
    monkeypatch.setenv("DEPT_HOM", "/data")
    result = dept("run", "dmo")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].endswith("did you mean DEPT_HOME?")
    assert len(result.stderr.splitlines()) == 2


OPENING = (
    *("run demo", "run demo --dry-run", "transfer-matrix demo", "trials", "trials show abcd", "trials retry --all"),
    *("report", "report x", "champions", "rollback sms-spam", "promote sms-spam --version 1", "retrain", "work"),
    *("predict --task sms-spam hello", "tasks", "tasks sms-spam", "tasks forget x", "status", "up", "down", "doctor"),
    *("settings", "tune --dry-run", "plan", "bench-peft --results x", "submit demo", "deploy"),
)


def test_every_command_is_among_those_that_are_tried():
    assert set(COMMANDS) <= {words.split()[0] for words in OPENING}


@pytest.mark.parametrize("words", OPENING)
def test_a_home_that_is_a_file(monkeypatch, tmp_path, words):
    file = tmp_path / "a-file"
    file.write_text("x")
    monkeypatch.setenv("DEPT_HOME", str(file))
    refused(dept(*words.split()), f"DEPT_HOME={file}: a file. Remedy: give a folder")
    monkeypatch.setenv("DEPT_HOME", str(file / "below"))
    refused(dept(*words.split()), f"DEPT_HOME={file}/below: below the file {file}. Remedy: give a folder")


@pytest.mark.parametrize("name", ["DEPT_STORE", "DEPT_CACHE", "DEPT_DATA"])
def test_another_folder_that_is_a_file(monkeypatch, tmp_path, name):
    (tmp_path / "a-file").write_text("x")
    monkeypatch.setenv(name, str(tmp_path / "a-file"))
    refused(dept("trials"), f"{name}={tmp_path / 'a-file'}: a file. Remedy: give a folder")


WRITING = ("run {plan}", "up", "tasks add {own}")


@pytest.mark.parametrize("words", WRITING)
def test_a_home_that_cannot_be_written(monkeypatch, tmp_path, make_plan, words):
    home = Path("/proc/dept-home")  # nobody makes a folder there, root neither
    monkeypatch.setenv("DEPT_HOME", str(home))
    plan = make_plan()
    refused(dept(*words.format(plan=plan, own=plan).split()), "/proc/dept-home", "Remedy: ")


@pytest.mark.parametrize("words", ["trials", "run {plan}", "champions", "report x", "work", "status", "rollback film"])
@pytest.mark.parametrize("url", ["ledger.db", "mysql://h/d", "sqlite://", "sqlite+foo:///x.db", "postgresql+foo://h/d"])
def test_a_ledger_address_that_is_none(monkeypatch, make_plan, words, url):
    monkeypatch.setenv("DEPT_LEDGER_URL", url)
    refused(dept(*words.format(plan=make_plan()).split()), "ledger", "Remedy: sqlite:///folder/ledger.db")


@pytest.mark.parametrize("words", ["run {plan}", "tasks add {plan}"])
@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s3:/bucket"])
def test_a_store_address_that_is_none(monkeypatch, make_plan, words, url):
    monkeypatch.setenv("DEPT_STORE", url)
    refused(dept(*words.format(plan=make_plan()).split()), url, "Remedy: ", "://")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tasks check a:b:c", "plan a:b: unknown"),  # no emoji of what was typed
        ("trials --since 999999999d", "--since 999999999d: give 30m"),
        ("tasks forget x", "no own task 'x'; there is none"),
        ("tune --backbone x/y", "cannot be loaded: HF_HUB_OFFLINE is set, and its cache on this machine does not hold"),
        ("tasks new a/b", "from the hub: HF_HUB_OFFLINE is set, and its cache"),
        ("tune --device x", "device 'x' is not there. Remedy: cpu"),
        ("retrain --margin inf", "margin: must be a finite number"),
    ],
)
def test_no_words_of_a_library(words, said):
    result = dept(*words.split())
    refused(result, said)
    for word in ("snapshot", "Enabled", "Expected one of", "outgoing traffic", "pydantic"):
        assert word not in result.stderr
