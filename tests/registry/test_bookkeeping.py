"""The bookkeeping bench in small: what is remembered of a trial must cost little beside training it."""

from tests.bench.bookkeeping import keep_book
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
    book = keep_book(TRIALS, home)
    del book.cpu["report"], book.wall["report"]  # its plots cost the same for a few trials as for many
    told = "\n".join(book.lines())
    assert book.milliseconds(book.cpu) < PROCESS_MS, told
    assert 1000 * book.poll < POLL_MS, told
