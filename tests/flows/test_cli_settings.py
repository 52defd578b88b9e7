"""Settings, keys of a plan, and what is said at the end of a command."""

import contextlib
import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli.next_steps import next_steps, runs_page
from flows.cli.state import pages
from flows.reporting.html import write_report
from infra.errors import InputError
from infra.mlflow_page import runs_page as runs_page_of
from infra.services import ServiceState
from infra.settings import home
from tests.flows.test_cli import DEMO, dept, refused, result_of, trial


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
    filled = {"stored", "adapter.pictures.encoder_id", "adapter.pictures.width"}
    assert not filled & found.keys(), "a run fills these in"
    assert "adapter.pictures.encoder" in found


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
        ("adapter.m=0", "adapter.m: must be a whole number from 1 to 100,000, got 0"),
        ("seedz=[1]", "seedz: unknown key; did you mean seeds?"),
        ("seeds.0=1", "there are no keys within seeds; set it as a whole"),
        ("adapter.m", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_setting_of_a_plan_is_named(setting, said):
    refused(dept("run", "demo", "--set", setting), said)


def test_what_comes_next_is_said():
    from flows.planning.plan_file import load_plan

    asked = 'predict --task easy-vqa-open --picture photo.png "what is to be seen?"'
    assert asked in "\n".join(next_steps(load_plan("easy-vqa")))
    told = "\n".join(next_steps(load_plan("demo")))
    for words in ("dept predict --task movie-polarity ", "dept report --last", "dept up"):
        assert words in told
    assert max(map(len, told.splitlines())) <= 80


def test_what_comes_next_names_the_backbone_where_there_are_several(monkeypatch):
    """Without it the command would end in an error."""
    from flows.planning.plan_file import load_plan

    monkeypatch.setattr(
        "registry.serving.champions.champion_backbones", lambda task: {"a" * 64: "one", "b" * 64: "two"}
    )
    assert "predict --task movie-polarity --backbone smollm2-135m " in "\n".join(next_steps(load_plan("demo")))


def test_a_ledger_that_is_away_takes_away_no_hint(monkeypatch):
    from flows.planning.plan_file import load_plan

    def away(task):
        raise InputError("ledger: away")

    monkeypatch.setattr("registry.serving.champions.champion_backbones", away)
    assert "dept predict --task movie-polarity " in "\n".join(next_steps(load_plan("demo")))


def test_the_page_of_a_run_is_linked_where_a_server_keeps_it(monkeypatch):
    assert runs_page("abc") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("registry.tracking.Tracker", lambda: SimpleNamespace(link=lambda run: f"page of {run}"))
    assert runs_page("abc") == "page of abc"
    monkeypatch.setattr(
        "infra.services.status",
        lambda: [ServiceState("mlflow", True, True, 1, "http://127.0.0.1:5000", Path("x"))],
    )
    none_yet = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    assert pages() == {"MLflow": none_yet}
    home().mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(home() / "mlflow.db")) as database:
        database.execute("create table experiments (experiment_id integer, name text, lifecycle_stage text)")
        database.execute("insert into experiments values (7, 'dept-transfer', 'active')")
        database.commit()
    assert pages() == {"MLflow": f"http://127.0.0.1:5000/{runs_page_of(7)}"}


def test_tune_says_what_it_found(monkeypatch):
    from dept.backbones import tuned
    from dept.engine import tune

    found = tune.TuneReport(tuned.Tuned(), tuned.Tuned(packed=True), home() / "x.json")
    found.lines, found.changed = [tune.Measured("packed weights", 120.4, 118.0, 123.0)], ["packed: by rule -> True"]
    monkeypatch.setattr("dept.backbones.backbone.Backbone.from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(tune, "tune", lambda *_, **__: found)
    assert "packed weights\t120\t118 to 123" in dept("tune").stdout
    assert json.loads(dept("tune", "--json", "--dry-run").stdout)["measured"][0]["rate"] == 120.4
