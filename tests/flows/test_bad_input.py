"""What can only be found while a flow runs is told in one line too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import transfer
from flows.planning.plan_file import load_plan
from infra.errors import InputError

ROOT = Path(__file__).parents[2]


def plain_environment():
    """Without what tests before this one may have set of Prefect and of logging."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_") and k != "DEPT_LOG_LEVEL"} | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false"
    }


def test_an_error_within_the_flow_is_one_line(prefect_url, make_plan, tmp_path):
    plan, full = make_plan(seeds=[0]), Path("/proc/no-store")  # nobody can write there, root neither
    own = {"PREFECT_API_URL": prefect_url, "DEPT_HOME": str(tmp_path / "home"), "DEPT_STORE": str(full)}
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(plan)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=plain_environment() | own | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "done in" not in line]  # a line of progress
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"Error: store {full}: cannot write")
    assert result.stdout == ""


def test_a_deployed_flow_checks_too(prefect_url, make_plan):
    plan = load_plan(make_plan(shots=[5000]))
    with pytest.raises(InputError, match="use k <= "):  # called as a worker calls it: without `transfer.run`
        transfer.dept_transfer(plan)
