"""A database that is damaged, full, away or wrongly named: told in one line, or waited for."""

import sqlite3
import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from infra.errors import InputError
from registry.ledger import Ledger, connection, database
from tests.registry.ledger_helpers import claim_one, make_outcome, make_spec


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(InputError, match=r"bad\.db: cannot be opened.*not a database.*moved away"):
        Ledger.open(f"sqlite:///{tmp_path / 'bad.db'}")
    with pytest.raises(InputError, match="cannot be opened"):
        Ledger.open(f"sqlite:///{tmp_path / 'bad.db' / 'ledger.db'}")


def test_a_file_that_was_damaged_in_mid_run_is_named(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger.open(url)
    ledger.add([make_spec(seed=seed) for seed in range(100)])
    ledger.close()  # writes its log back, and opens the file anew below
    body = bytearray((tmp_path / "ledger.db").read_bytes())
    body[4096:] = b"\xff" * (len(body) - 4096)
    (tmp_path / "ledger.db").write_bytes(body)
    with pytest.raises(InputError, match=r"malformed|not a database"):
        ledger.find()


def test_a_full_disk_is_told_at_once(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    from sqlalchemy import event

    event.listen(ledger.engine, "connect", lambda there, _: there.execute("pragma max_page_count = 60"), insert=False)
    ledger.close()
    began = time.monotonic()
    with pytest.raises(InputError, match=r"is full.*free disk space"):
        ledger.add([make_spec(seed=seed) for seed in range(2000)])
    assert time.monotonic() - began < 20
    assert ledger.find() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "no database URL"),
        ("sqlite://", "needs a file"),
        ("martian://x/y", "no database URL"),
        ("mysql://x/y", "no database URL"),
        ("postgresql+nodriver://x/y", "no database URL"),
        ("postgresql://user@localhost:port/x", "no database URL"),
    ],
)
def test_a_bad_url_is_named(url, message):
    with pytest.raises(InputError, match=message):
        Ledger.open(url)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg is not installed.*pip install dept-transfer\[postgres\]"):
        Ledger.open("postgresql://nobody@localhost:1/none")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cr%40t@localhost:1/none",
        "postgresql+psycopg://ada@localhost:1/none?password=s3cr%40t",
        "postgresql://ada:s3cr@t@localhost:port/none",
        "martian://ada:s3cr%40t@x/y",
    ],
)
def test_no_error_shows_a_password(url):
    with pytest.raises(InputError) as caught:
        Ledger.open(url)
    assert "s3cr" not in str(caught.value)
    assert "***" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_told_at_once():
    began = time.monotonic()
    with pytest.raises(InputError, match=r"localhost:1/none: cannot be opened.*check that the server runs"):
        Ledger.open("postgresql://nobody@localhost:1/none")
    assert time.monotonic() - began < 20


def test_a_database_that_is_not_there_is_named(postgres):
    url = postgres.address.set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        Ledger.open(url)


def test_a_server_that_goes_away_in_mid_run_is_waited_for(postgres, monkeypatch):
    if postgres.handle is None:
        pytest.skip("the server of $TEST_POSTGRESQL is not ours to stop")
    told = []
    ledger = Ledger.open(postgres.url(), on_wait=told.append)
    claim = claim_one(ledger, make_spec())
    found = []
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.5)
    postgres.stop()
    try:
        worker = threading.Thread(target=lambda: found.append(ledger.trained(claim, make_outcome(claim.spec))))
        worker.start()
        time.sleep(3)
        assert worker.is_alive()
        assert len(told) == 1
        assert "away" in told[0]
        impatient = Ledger(ledger.engine)
        impatient.wait_seconds = 0.5
        with pytest.raises(InputError, match="goes on from here"):
            impatient.counts()
    finally:
        postgres.start()
    worker.join(60)
    assert found == [True]
    assert "back after" in told[-1]
    assert ledger.finish(claim, "run", make_outcome(claim.spec))


def test_another_writer_is_waited_for(ledger, ledger_url):
    """A transaction of another process holds the row, or on SQLite the file, for a while."""
    claim = claim_one(ledger, make_spec())
    engine = database._engine(ledger_url)
    with engine.connect().execution_options(immediate=True) as other:
        holding = other.begin()
        other.execute(text("update dept_trials set seed = seed"))
        threading.Timer(1.0, holding.commit).start()
        assert ledger.fail(claim, "no")


def test_a_worker_stopped_in_the_middle_of_a_transaction_holds_nothing_for_ever(postgres, monkeypatch):
    url = postgres.url()
    ledger = Ledger.open(url)  # its migration may take longer than a second on a busy machine
    claim = claim_one(ledger, make_spec())
    monkeypatch.setattr(database, "IDLE_SECONDS", 1)
    stopped = database._engine(url)
    with stopped.connect() as there:
        there.execute(text("update dept_trials set seed = seed"))
        began = time.monotonic()
        assert ledger.fail(claim, "no")
        assert time.monotonic() - began < 30
        there.invalidate()


def test_who_is_interrupted_in_a_wait_hardly_waits_on_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.2)
    ledger, until = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}"), time.monotonic() + 1.5
    away = OperationalError("select 1", {}, sqlite3.OperationalError("database is locked"))

    def once(*_):
        raise away if time.monotonic() < until else KeyboardInterrupt

    monkeypatch.setattr(ledger, "_once", once)
    with pytest.raises(KeyboardInterrupt):
        ledger.counts()
    assert ledger.wait_seconds == connection.LAST_SECONDS
