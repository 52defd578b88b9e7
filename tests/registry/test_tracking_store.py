"""How MLflow's store is opened: where it lies, by many at once, after a kill; what addresses must not tell."""

import os
import sqlite3
import subprocess
import sys

import pytest

from infra.errors import InputError
from infra.mlflow_page import runs_page
from infra.settings import home
from registry.tracking import Tracker, TrialLog
from tests.registry.tracking_helpers import trial


def test_the_store_lies_in_home_in_wal_mode(local):
    with sqlite3.connect(home() / "mlflow.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    place = local.client.get_experiment(local.experiment_id).artifact_location
    assert place == (home() / "artifacts").as_uri()
    assert local.link("x") is None
    local.client.delete_experiment(local.experiment_id)
    assert Tracker().experiment_id == local.experiment_id
    assert local.client.get_experiment(local.experiment_id).lifecycle_stage == "active"


def test_only_mlflows_own_file_commits_without_waiting(local, tmp_path):
    from sqlalchemy import create_engine, text

    for file, wanted in ((home() / "mlflow.db", 1), (tmp_path / "other.db", 2)):
        with create_engine(f"sqlite:///{file}").connect() as connection:
            assert connection.execute(text("pragma synchronous")).scalar() == wanted


def test_links_land_on_runs_and_hold_no_password(local, monkeypatch):
    local.uri, local.is_server = "http://host:5000/", True
    assert local.link("abc") == "http://host:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert local.link() == f"http://host:5000/{runs_page(local.experiment_id)}"
    assert "workflowType=machine_learning" in local.link()
    (view,) = [name for name in local.client.get_experiment(local.experiment_id).tags if "sharedViewState" in name]
    assert local.link().endswith(f"viewStateShareKey={view.rpartition('.')[2]}")
    monkeypatch.setenv("DEPT_MLFLOW_PAGE", "https://mlflow.example.org/pages/")  # where browsers know another address
    assert local.link("abc").startswith("https://mlflow.example.org/pages/#/experiments/1/runs/abc?")
    monkeypatch.setenv("DEPT_MLFLOW_PAGE", "https://me:s3cr3t@mlflow.example.org")
    with pytest.raises(InputError, match=r"DEPT_MLFLOW_PAGE=.*no address of a page") as raised:
        local.link("abc")
    assert "s3cr3t" not in str(raised.value)


def test_no_password_reaches_mlflow_or_a_message(local, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.tracking.client.OPENING_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    outcome, folder = trial(tmp_path)
    secret = "postgresql://me:hunter2@db/x"
    parent = local.open_flow_run("flow", {"ledger": secret}, {})
    local.log_trials(parent, [TrialLog(outcome, 1, folder, provenance={"store": secret})])
    local.set_tags(parent, {"url": secret})
    for run in local.client.search_runs([local.experiment_id]):
        assert "hunter2" not in f"{run.data.params} {run.data.tags}"
    with pytest.raises(InputError) as failed:
        Tracker("http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "hunter2")
    with pytest.raises(InputError) as failed:
        Tracker("postgresql+psycopg://me:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in str(failed.value)


def test_processes_may_open_a_new_store_at_once():
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "from registry.tracking import Tracker\nprint(Tracker().experiment_id)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [child.communicate(timeout=120)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert len(set(answers)) == 1


@pytest.mark.parametrize("migrations", [0, 1, 30])
def test_a_store_whose_maker_was_killed_is_made_again(migrations):
    """`os._exit` after so many migrations, as a kill -9 would: SQLite has committed a part of them."""
    code = (
        "import os\n"
        "from alembic.runtime.migration import HeadMaintainer\nstep, seen = HeadMaintainer.update_to_step, [0]\n"
        "def counted(self, s):\n"
        f"    if seen[0] == {migrations}: os._exit(9)\n"
        "    seen[0] += 1\n    return step(self, s)\n"
        "HeadMaintainer.update_to_step = counted\nfrom registry.tracking import Tracker\nTracker()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (home() / "mlflow.db").touch()  # an empty file, as versions before this left it
    assert Tracker().experiment_id
    assert not list(home().glob(".mlflow.db.new-*"))


def test_telemetry_is_off_before_mlflow_is_imported():
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    code = (
        f"import registry, sys, os\nassert 'mlflow' not in sys.modules\nprint([os.environ[name] for name in {names}])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], env=clean, text=True) == "['true', 'true']\n"


@pytest.mark.parametrize(
    ("uri", "message"), [("ftp://x", "no tracking URI"), ("mlruns", "no tracking URI"), ("sqlite://", "names no file")]
)
def test_a_bad_uri_is_named(uri, message):
    with pytest.raises(InputError, match=message):
        Tracker(uri)


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"not a database" * 400)
    with pytest.raises(InputError, match="cannot be opened"):
        Tracker(f"sqlite:///{tmp_path / 'bad.db'}")
