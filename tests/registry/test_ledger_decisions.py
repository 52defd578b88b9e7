"""The audit trail, and locks that hold across machines."""

import threading
import time

import pytest
from sqlalchemy import update

from infra.errors import InputError
from registry.ledger import Ledger
from registry.ledger.clock import now
from registry.ledger.locks import LockLostError
from registry.ledger.schema import LockRow
from tests.registry.ledger_helpers import make_spec


def test_decisions_are_an_audit_trail(ledger):
    spec = make_spec()
    first = ledger.record_decision(
        "dept-tiny-a",
        "a",
        "first",
        "no champion yet",
        challenger_fingerprint=spec.fingerprint,
        challenger_version="1",
        challenger_score=75.0,
    )
    ledger.record_decision("dept-tiny-a", "a", "not-stale", "nothing changed", champion_version="1")
    ledger.record_decision(
        "dept-tiny-b", "b", "rolled-back", "by a person", by="ada", p=0.25, low=-1.5, wins=3, rows=2**33
    )
    rows = ledger.decisions("dept-tiny-a")
    assert [row.decision for row in rows] == ["first", "not-stale"]
    assert (rows[0].challenger_score, rows[0].by, rows[0].id) == (75.0, "rule", first.id)
    assert rows[0].at.tzinfo is not None
    assert rows[0].at <= rows[1].at
    assert len(ledger.decisions()) == 3
    assert [row.decision for row in ledger.decisions(limit=2)] == ["not-stale", "rolled-back"]
    (other,) = ledger.decisions(task="b")
    assert (other.by, other.p, other.low, other.wins, other.rows) == ("ada", 0.25, -1.5, 3, 2**33)
    with pytest.raises(InputError, match="not recorded"):
        ledger.record_decision("m", "a", "perhaps", "x")


def test_decisions_outlive_the_trial(ledger):
    spec = make_spec()
    ledger.add([spec])
    ledger.record_decision("m", "a", "first", "x", challenger_fingerprint=spec.fingerprint)
    ledger.forget([spec.fingerprint])
    assert ledger.decisions()[0].challenger_fingerprint == spec.fingerprint


def test_one_holds_a_name_and_may_write_meanwhile(ledger, ledger_url):
    inside, most = [0], []

    def decide():
        own = Ledger.open(ledger_url)
        with own.lock("dept-tiny-a"):
            inside[0] += 1
            most.append(inside[0])
            own.record_decision("dept-tiny-a", "a", "kept", "x")  # no deadlock, on SQLite neither
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=decide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1, 1]
    with ledger.lock("dept-tiny-a"), ledger.lock("dept-tiny-b"), pytest.raises(InputError, match="has been held by"):
        ledger.lock("dept-tiny-a", wait_seconds=0.1).__enter__()


def test_an_error_inside_lets_go(ledger):
    with pytest.raises(ZeroDivisionError), ledger.lock("a"):
        raise ZeroDivisionError
    with ledger.lock("a", wait_seconds=0.0):
        pass


def test_a_lock_of_the_dead_is_taken_at_once_and_of_the_silent_after_its_lease(ledger, ledger_url, children):
    body = "with Ledger.open(sys.argv[1]).lock('a'):\n    print('held', flush=True)\n    input()"
    child = children(body, ledger_url)
    assert child.stdout.readline().strip() == "held"
    with pytest.raises(InputError, match="held by"):
        ledger.lock("a", wait_seconds=0.2).__enter__()
    child.kill()
    with ledger.lock("a", wait_seconds=5.0):
        pass
    elsewhere = ledger.lock("b")
    elsewhere.__enter__()
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(update(LockRow).values(owner="elsewhere:-:-:1:1"))
    with pytest.raises(InputError, match="elsewhere"):
        ledger.lock("b", wait_seconds=0.2).__enter__()
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(update(LockRow).values(until=now(-1)))
    with ledger.lock("b", wait_seconds=0.0):
        elsewhere.__exit__(None, None, None)  # the late holder lets go of nothing
        with pytest.raises(InputError, match="held by"):
            ledger.lock("b", wait_seconds=0.0).__enter__()


def lapse(ledger):
    """Let the lease of every lock end."""
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(update(LockRow).values(until=now(-1)))


def test_a_lock_is_renewed_and_who_lost_it_writes_no_decision(ledger, ledger_url):
    with ledger.lock("a", lease_seconds=0.5) as held:
        for _ in range(4):  # twice its lease
            time.sleep(0.25)
            held.waits()
        with pytest.raises(InputError, match="held by"):
            ledger.lock("a", wait_seconds=0.0).__enter__()
        assert ledger.record_decision("m", "a", "kept", "x", held=held).id
    late = ledger.lock("a")
    held = late.__enter__()
    lapse(ledger)
    held.renew()  # nobody has taken it
    lapse(ledger)
    with Ledger.open(ledger_url).lock("a", wait_seconds=0.0):
        with pytest.raises(LockLostError):
            held.renew()
        with pytest.raises(LockLostError):
            ledger.record_decision("m", "a", "promoted", "late", held=held)
    late.__exit__(None, None, None)
    assert [row.decision for row in ledger.decisions()] == ["kept"]


def test_a_lock_is_waited_for_as_long_as_its_holder_may_wait(ledger, monkeypatch):
    monkeypatch.setenv("DEPT_MLFLOW_PATIENCE", "0.5")
    monkeypatch.setenv("DEPT_LEDGER_PATIENCE", "1.5")
    with ledger.lock("a"):
        began = time.monotonic()
        with pytest.raises(InputError, match="has been held"):
            ledger.lock("a").__enter__()
    assert 1.5 <= time.monotonic() - began < 30


def test_ages_are_by_the_databases_clock(ledger, monkeypatch):
    row = ledger.record_decision("m", "a", "first", "x")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= (ledger.now() - row.at).total_seconds() < 60
    assert ledger.now().tzinfo is not None
