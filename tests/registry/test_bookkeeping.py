"""The bookkeeping bench in small: what is remembered of a trial must cost little beside training it."""

from tests.bench.bookkeeping import costs_of
from tests.registry.registry_helpers import new_store

TRIALS = 153
PROCESS_MS = 120.0  # a trial's share of this process's time; three times what a quiet machine takes
POLL_MS = 50.0


def test_a_trial_is_remembered_cheaply(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("DEPT_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "DEPT_LEDGER_URL", "DEPT_STORE"):
        monkeypatch.delenv(name, raising=False)
    new_store(home)
    costs = costs_of(TRIALS, home)
    del costs.cpu["report"], costs.wall["report"]  # its plots cost the same for a few trials as for many
    told = "\n".join(costs.lines())
    assert costs.milliseconds(costs.cpu) < PROCESS_MS, told
    assert 1000 * costs.poll < POLL_MS, told
