"""15,000 trials planned, added, claimed, stored, logged, finished, waited for and reported: SQLite, no backbone."""

import os

import pytest

from tests.bench.bookkeeping import costs_of

TRIALS = int(os.environ.get("DEPT_BENCH_TRIALS", "15000"))
MS_A_TRIAL, POLL_MS, PAGE_MB, REPORT_SECONDS = 40.0, 50.0, 3.0, 30.0


@pytest.mark.timeout(3600)
def test_bookkeeping(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "DEPT_LEDGER_URL", "DEPT_STORE"):
        monkeypatch.delenv(name, raising=False)
    costs = costs_of(TRIALS, tmp_path / "home")
    whole = costs.milliseconds(costs.wall)
    print("", *costs.lines(), sep="\n")
    shares = whole / MS_A_TRIAL, 1000 * costs.poll / POLL_MS
    print(f"in all {shares[0]:.2f} x the bar of {MS_A_TRIAL:g} ms, poll {shares[1]:.2f} x the bar of {POLL_MS:g} ms")
    assert whole < MS_A_TRIAL
    assert 1000 * costs.poll < POLL_MS
    assert costs.page.stat().st_size < PAGE_MB * 1e6
    assert costs.wall["report"] < REPORT_SECONDS
