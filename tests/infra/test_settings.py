"""One class of settings: environment before files before defaults, masked, cheap, and told in words."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.secrets import masked
from infra.settings import Settings, exported, home, name_of, settings
from infra.settings_table import markdown, strays, told

ROOT = Path(__file__).parents[2]
SECRET = "postgresql+psycopg://ann:hunter2@db.example:5432/dept"


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    for field in Settings.model_fields:
        monkeypatch.delenv(name_of(field), raising=False)
    monkeypatch.chdir(tmp_path)


def origins():
    return {row.name: row.origin for row in told()}


def test_defaults_and_a_fresh_look_at_the_environment(monkeypatch, tmp_path):
    assert home() == tmp_path / ".dept"
    assert not home().exists()
    assert set(origins().values()) == {"default"}
    monkeypatch.setenv("DEPT_HOME", "there")
    assert home() == tmp_path / "there"
    monkeypatch.setenv("DEPT_HOME", "")
    assert home() == tmp_path / ".dept"  # empty is as good as not set
    monkeypatch.setenv("DEPT_COMPILE", "1")
    monkeypatch.setenv("DEPT_PLAN_ROOTS", f"/a{os.pathsep}b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m:5000")
    assert settings().compile is True
    assert settings().plan_roots == (Path("/a"), tmp_path / "b")
    assert settings().mlflow_tracking_uri == "http://m:5000"
    assert origins()["DEPT_COMPILE"] == "environment"


def test_files_lie_below_the_environment(monkeypatch, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "dept.toml").write_text('home = "state"\nstore = "files"\nPREFECT_PORT = 4300\n')
    (tmp_path / "state" / "dept.toml").write_text('store = "s3://bucket/dept"\nlease_seconds = 60\n')
    assert home() == tmp_path / "state"
    assert settings().store == str(tmp_path / "files")  # the nearer file, and relative to it
    assert settings().prefect_port == 4300
    assert settings().lease_seconds == 60
    assert origins()["DEPT_LEASE_SECONDS"] == str(tmp_path / "state" / "dept.toml")
    assert origins()["PREFECT_PORT"] == str(tmp_path / "dept.toml")
    assert origins()["MLFLOW_PORT"] == "default"
    monkeypatch.setenv("DEPT_STORE", "gs://other")
    assert settings().store == "gs://other"
    (tmp_path / "dept.toml").write_text('home = "state"\nPREFECT_PORT = 4301\n')
    assert settings().prefect_port == 4301  # a file that changes is read again
    assert exported() == {
        "DEPT_HOME": str(tmp_path / "state"),
        "DEPT_STORE": "gs://other",
        "DEPT_LEASE_SECONDS": "60",
        "PREFECT_PORT": "4301",
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("stor = 's3://x'", "stor: unknown setting; did you mean store?"),
        ("home = ", "not valid TOML"),
        ("lease_seconds = 0", "DEPT_LEASE_SECONDS=0 in .*dept.toml: out of bounds; give a number from 1 to 86400"),
        ("compile = 'perhaps'", "DEPT_COMPILE=perhaps in .*: not a yes or no; give 1 or 0"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, body, said):
    (tmp_path / "dept.toml").write_text(body)
    with pytest.raises(InputError, match=said):
        settings()


def test_home_in_its_own_file(tmp_path):
    (tmp_path / ".dept").mkdir()
    (tmp_path / ".dept" / "dept.toml").write_text("home = 'x'")
    with pytest.raises(InputError, match="home cannot be set in the home folder itself"):
        settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PREFECT_PORT", "many", "PREFECT_PORT=many: not a port"),
        ("MLFLOW_PORT", "70000", "MLFLOW_PORT=70000: not a port"),
        ("DEPT_LEASE_SECONDS", "soon", "DEPT_LEASE_SECONDS=soon: not a number"),
        ("DEPT_LOG_LEVEL", "loud", "DEPT_LOG_LEVEL=loud: unknown; give debug, info, warning or error"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        settings()


@pytest.mark.parametrize("name", ["DEPT_HOME", "DEPT_STORE", "DEPT_CACHE", "DEPT_DATA", "DEPT_PLAN_ROOTS"])
def test_an_unknown_user_is_no_traceback(monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "~nouser/x")
    with pytest.raises(InputError, match=f"{name}=.*~nouser: no such user on this machine"):
        settings()
    monkeypatch.delenv(name)
    value = '["~nouser/x"]' if name == "DEPT_PLAN_ROOTS" else '"~nouser/x"'
    (tmp_path / "dept.toml").write_text(f"{name} = {value}\n")
    with pytest.raises(InputError, match=f"dept.toml: {name}: ~nouser: no such user on this machine"):
        settings()


def test_a_ledger_address_without_a_scheme_shows_no_password(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGER_URL", "u:hunter2@h/d")
    assert {row.name: row.value for row in told()}["DEPT_LEDGER_URL"] == "***@h/d"


def test_kubernetes_links_are_no_ports(monkeypatch):
    monkeypatch.setenv("MLFLOW_PORT", "tcp://10.0.0.7:5000")
    assert settings().mlflow_port == 5000


def test_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGER_URL", SECRET)
    assert settings().ledger_url == SECRET
    assert "hunter2" not in repr(settings())
    shown = {row.name: row.value for row in told()}["DEPT_LEDGER_URL"]
    assert shown == "postgresql+psycopg://ann:***@db.example:5432/dept"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:p@ss/w@host/x", "postgresql://u:***@host/x"),
        ("https://token@host/x?y=1", "https://***@host/x?y=1"),
        ("postgresql://host/x?user=u&password=p&sslmode=on", "postgresql://host/x?user=u&password=***&sslmode=on"),
        ("sqlite:////data/ledger.db", "sqlite:////data/ledger.db"),
        ("cannot open mysql://a:b@c/d (refused)", "cannot open mysql://a:***@c/d (refused)"),
    ],
)
def test_masking(url, said):
    assert masked(url) == said


def test_names_that_are_no_settings(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGERURL", "x")
    assert strays() == ["DEPT_LEDGERURL is set, but there is no such setting; did you mean DEPT_LEDGER_URL?"]


def test_reading_is_cheap():
    settings()
    started = time.perf_counter()
    for _ in range(200):
        home()
    assert (time.perf_counter() - started) / 200 < 0.002


def test_the_readme_has_the_table():
    readme = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    assert markdown() in readme
    assert all(field.description for field in Settings.model_fields.values())


def test_nothing_else_reads_our_variables():
    wrong = re.compile(r"environ\S*[\[(]\s*[\"']?(DEPT_(?!SERVICE)|MLFLOW_TRACKING_URI|PREFECT_PORT|MLFLOW_PORT)")
    for room in ("infra", "tasks", "dept", "registry", "flows"):
        for file in (ROOT / room).rglob("*.py"):
            assert not wrong.search(file.read_text(encoding="utf-8")), file


def test_the_import_is_light():
    code = (
        "import sys, infra.settings; print([m for m in ('torch', 'prefect', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
