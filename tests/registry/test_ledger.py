import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text, update

from dept.trial import TrialSpec
from infra.errors import InputError
from infra.identity import is_dead, is_gone
from infra.settings import home
from registry.ledger import database, migrations
from registry.ledger.ledger import Ledger, TrialRow, owner_id
from registry.ledger.schema import Base
from tests.registry.registry_helpers import make_outcome, make_spec


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))


@pytest.fixture
def ledger():
    opened = Ledger.open()
    yield opened
    opened.close()


@pytest.fixture
def spec(ledger) -> TrialSpec:
    made = make_spec()
    ledger.add([made])
    return made


def in_child(body: str, wait: bool = True) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", f"from registry.ledger.ledger import Ledger, owner_id\n{body}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if wait:
        assert child.wait(60) == 0
    return child


def test_the_default_is_a_file_in_home_with_wal_and_foreign_keys(ledger):
    assert (home() / "ledger.db").is_file()
    with ledger.engine.connect() as connection:
        values = [
            connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 1, database.BUSY_MILLISECONDS]


def test_migrations_make_the_tables_of_the_schema(ledger):
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        checks = {
            table: {check["name"] for check in inspect(connection).get_check_constraints(table)}
            for table in Base.metadata.tables
        }
    assert checks == {"trials": {"ck_trials_status"}, "decisions": {"ck_decisions_decision"}}


def test_the_migration_can_be_taken_back(ledger):
    from alembic import command

    settings = migrations.config()
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        settings.attributes["connection"] = connection
        command.downgrade(settings, "base")
    with ledger.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}


def test_a_migration_cut_short_leaves_nothing(tmp_path, monkeypatch):
    upgrade = migrations.upgrade

    def cut(connection):
        upgrade(connection)
        raise OSError("power cut")

    url = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setattr(migrations, "upgrade", cut)
    with pytest.raises(InputError, match="power cut"):
        Ledger.open(url)
    monkeypatch.undo()
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    assert Ledger.open(url).find() == []


def test_processes_may_open_a_new_file_at_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'race.db'}"
    children = [in_child(f"assert Ledger.open({url!r}).find() == []", wait=False) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "no database URL"),
        ("sqlite://", "needs a file"),
        ("martian://x/y", "no database URL"),
        ("postgresql+nodriver://x/y", "no database URL"),
    ],
)
def test_a_bad_url_is_named(url, message):
    with pytest.raises(InputError, match=message):
        Ledger.open(url)


def test_postgresql_without_its_driver_says_what_to_install():
    try:
        import psycopg  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(InputError, match=r"pip install psycopg\[binary\]"):
            Ledger.open("postgresql+psycopg://nobody@localhost:1/none")
    else:
        with pytest.raises(InputError, match="cannot be opened"):
            Ledger.open("postgresql+psycopg://nobody@localhost:1/none")


def test_a_damaged_or_newer_file_is_refused(tmp_path, ledger):
    (tmp_path / "bad.db").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(InputError, match=r"cannot be opened.*not a database"):
        Ledger.open(f"sqlite:///{tmp_path / 'bad.db'}")
    with ledger.engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(InputError, match="newer dept-transfer"):
        Ledger.open()


def test_add_is_idempotent_and_never_resets(ledger, spec, tmp_path):
    ledger.claim(spec.fingerprint, owner_id())
    outcome = make_outcome(spec, tmp_path)
    assert ledger.finish(spec.fingerprint, "run", outcome)
    ledger.add([spec, make_spec(seed=1), make_spec(seed=1)])
    rows = ledger.find()
    assert [row.seed for row in rows] == [0, 1]
    assert [row.status for row in rows] == ["finished", "pending"]
    assert rows[0].trial_spec == spec


def test_the_way_of_a_trial(ledger, spec, tmp_path):
    me, key = owner_id(), spec.fingerprint
    assert ledger.get(key).status == "pending"
    assert ledger.claim(key, me)
    row = ledger.get(key)
    assert (row.status, row.owner, row.attempts) == ("running", me, 1)
    assert datetime.now(UTC) - row.heartbeat_at < timedelta(seconds=30)
    with pytest.raises(InputError, match="no result: it is running"):
        ledger.outcome(key)
    outcome = make_outcome(spec, tmp_path)
    assert ledger.trained(key, outcome, owner=me)
    assert ledger.get(key).status == "trained"
    assert ledger.finish(key, "run-1", outcome, owner=me)
    row = ledger.get(key)
    assert (row.status, row.owner, row.mlflow_run_id) == ("finished", None, "run-1")
    assert row.finished_at >= row.created_at
    assert ledger.outcome(key) == outcome


def test_a_finished_trial_stays_finished(ledger, spec, tmp_path):
    key, outcome = spec.fingerprint, make_outcome(spec, tmp_path)
    ledger.finish(key, "run", outcome)
    assert not ledger.claim(key, owner_id(), retry_failed=True, stale_seconds=0)
    assert not ledger.fail(key, "late")
    assert not ledger.trained(key, make_outcome(spec, tmp_path, seconds=9.0))
    assert not ledger.finish(key, "other", outcome)
    assert (ledger.get(key).status, ledger.get(key).mlflow_run_id) == ("finished", "run")


def test_a_live_owner_is_not_robbed(ledger, spec):
    assert ledger.claim(spec.fingerprint, owner_id())
    assert not ledger.claim(spec.fingerprint, "elsewhere:1:1.00")
    assert not ledger.claim(spec.fingerprint, owner_id())


def test_threads_race_and_one_wins(ledger):
    for seed in range(10):
        spec = make_spec(seed=seed)
        ledger.add([spec])
        ledgers, start = [Ledger.open() for _ in range(6)], threading.Barrier(6)

        def take(one, spec=spec, start=start):
            start.wait()
            return one.claim(spec.fingerprint, owner_id())

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(take, ledgers)) == 1
        assert ledger.get(spec.fingerprint).attempts == 1


def test_a_claim_between_look_and_update_loses(ledger, spec, monkeypatch):
    look = ledger.get

    def look_then_lose(fingerprint):
        seen = look(fingerprint)
        monkeypatch.undo()
        assert Ledger(ledger.engine).claim(fingerprint, owner_id())
        return seen

    monkeypatch.setattr(ledger, "get", look_then_lose)
    assert not ledger.claim(spec.fingerprint, "late:1:1.00")


def test_processes_race_and_each_trial_is_taken_once(ledger):
    specs = [make_spec(seed=seed) for seed in range(40)]
    ledger.add(specs)
    body = (
        "import json, time\nledger = Ledger.open()\ntime.sleep(max(0, {start} - time.time()))\n"
        "print(json.dumps([r.fingerprint for r in ledger.find() if ledger.claim(r.fingerprint, owner_id())]))\n"
        "input()"
    )
    start = time.time() + 4
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "from registry.ledger.ledger import Ledger, owner_id\n" + body.format(start=start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    taken = [json.loads(child.stdout.readline()) for child in children]
    for child in children:
        child.communicate("\n", timeout=30)
    everything = [key for one in taken for key in one]
    assert sorted(everything) == sorted(spec.fingerprint for spec in specs)


@pytest.mark.parametrize("reap", [True, False])
def test_after_kill_9_the_next_claim_succeeds_at_once(ledger, tmp_path, reap):
    running, trained = make_spec(seed=1), make_spec(seed=2)
    ledger.add([running, trained])
    child = in_child(
        "import time\nledger = Ledger.open()\nfor row in ledger.find():\n"
        "    assert ledger.claim(row.fingerprint, owner_id())\n"
        "print(owner_id(), flush=True)\ntime.sleep(60)",
        wait=False,
    )
    owner = child.stdout.readline().strip()
    ledger.trained(trained.fingerprint, make_outcome(trained, tmp_path), owner=owner)
    assert not is_gone(owner)
    assert not ledger.claim(running.fingerprint, owner_id())
    os.kill(child.pid, signal.SIGKILL)
    if reap:
        child.wait()
    else:  # a zombie still has a process id
        deadline = time.monotonic() + 10
        while not is_gone(owner) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ledger.claim(running.fingerprint, owner_id())
    assert ledger.claim(trained.fingerprint, owner_id())
    assert ledger.get(running.fingerprint).status == "running"
    assert ledger.get(trained.fingerprint).status == "trained"
    assert ledger.outcome(trained.fingerprint).spec == trained
    child.wait()


def test_a_reused_process_id_is_not_the_owner():
    host, pid, start = owner_id().rsplit(":", 2)
    assert not is_gone(f"{host}:{pid}:{start}")
    assert is_gone(f"{host}:{pid}:{float(start) - 60:.2f}")
    assert not is_gone(f"{host}-other:{pid}:{float(start) - 60:.2f}")
    assert not is_gone("a name of another making")


def test_an_owner_elsewhere_is_judged_by_its_heartbeat(ledger, spec):
    elsewhere = f"not-{socket.gethostname()}:1:1.00"
    assert ledger.claim(spec.fingerprint, elsewhere)
    assert not ledger.claim(spec.fingerprint, owner_id())

    def silent_for(seconds):
        with ledger.engine.begin() as connection:
            connection.execute(update(TrialRow).values(heartbeat_at=datetime.now(UTC) - timedelta(seconds=seconds)))

    silent_for(110)
    assert not ledger.claim(spec.fingerprint, owner_id())
    silent_for(130)
    assert ledger.heartbeat(elsewhere) == 1
    assert not ledger.claim(spec.fingerprint, owner_id())
    silent_for(130)
    assert ledger.claim(spec.fingerprint, owner_id())
    assert ledger.heartbeat(elsewhere) == 0
    assert is_dead(None, datetime.now(UTC))


def test_who_lost_a_trial_cannot_write_it(ledger, spec, tmp_path):
    key, outcome = spec.fingerprint, make_outcome(spec, tmp_path)
    ledger.claim(key, owner_id())
    assert not ledger.trained(key, outcome, owner="elsewhere:1:1.00")
    assert not ledger.fail(key, "no", owner="elsewhere:1:1.00")
    assert ledger.get(key).status == "running"


def test_failed_trials_are_tried_again_only_when_asked(ledger, spec):
    ledger.claim(spec.fingerprint, owner_id())
    assert ledger.fail(spec.fingerprint, "loss exploded")
    assert (ledger.get(spec.fingerprint).status, ledger.get(spec.fingerprint).error) == ("failed", "loss exploded")
    assert not ledger.claim(spec.fingerprint, owner_id())
    assert ledger.claim(spec.fingerprint, owner_id(), retry_failed=True)
    row = ledger.get(spec.fingerprint)
    assert (row.status, row.attempts, row.error) == ("running", 2, None)


def test_release_makes_running_pending_and_keeps_trained(ledger, tmp_path):
    specs = [make_spec(seed=seed) for seed in range(3)]
    ledger.add(specs)
    mine, theirs = owner_id(), "elsewhere:1:1.00"
    for spec, owner in zip(specs, (mine, mine, theirs), strict=True):
        ledger.claim(spec.fingerprint, owner)
    ledger.trained(specs[1].fingerprint, make_outcome(specs[1], tmp_path))
    ledger.release(mine)
    rows = [ledger.get(spec.fingerprint) for spec in specs]
    assert [(row.status, row.owner) for row in rows] == [("pending", None), ("trained", None), ("running", theirs)]
    assert ledger.claim(specs[1].fingerprint, "elsewhere:2:1.00")


def test_beating_sends_heartbeats_and_releases(ledger, spec):
    me = owner_id()
    ledger.claim(spec.fingerprint, me)
    before = ledger.get(spec.fingerprint).heartbeat_at
    with contextlib.suppress(RuntimeError), ledger.beating(me, seconds=0.02):
        deadline = time.monotonic() + 10
        while ledger.get(spec.fingerprint).heartbeat_at == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ledger.get(spec.fingerprint).heartbeat_at > before
        raise RuntimeError
    assert ledger.get(spec.fingerprint).status == "pending"


def test_find_filters_and_limits(ledger):
    ledger.add(
        [
            make_spec(task=task, role=role, init=init, seed=seed)
            for task, role, init, seed in (
                ("a", "source", "scratch", 0),
                ("a", "target", "best-source", 0),
                ("b", "target", "best-source", 1),
            )
        ]
    )
    assert len(ledger.find()) == 3
    assert {row.task for row in ledger.find(role="target")} == {"a", "b"}
    assert [row.task for row in ledger.find(init="best-source", task="b")] == ["b"]
    assert ledger.find(status="finished") == []
    assert ledger.find(backbone="other") == []
    assert len(ledger.find(backbone="tiny", status="pending", limit=2)) == 2


def test_numbers_come_back_even_nan(ledger, spec, tmp_path):
    outcome = make_outcome(
        spec,
        tmp_path / "x",
        validation={"accuracy": math.nan, "loss": math.inf},
        loss_curve=[(1, -math.inf), (2, 0.5)],
        extra={"note": "a", "rate": 0.5},
    )
    ledger.finish(spec.fingerprint, "run", outcome)
    with ledger.engine.connect() as connection:
        stored = connection.execute(text("select outcome from trials")).scalar()
    json.loads(stored, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = ledger.outcome(spec.fingerprint)
    assert math.isnan(back.validation["accuracy"])
    assert back.validation["loss"] == math.inf
    assert back.loss_curve == [(1, -math.inf), (2, 0.5)]
    assert back.extra == outcome.extra


def test_the_home_can_be_moved(ledger, spec, tmp_path, monkeypatch):
    ledger.finish(spec.fingerprint, "run", make_outcome(spec, home() / "adapters" / "x"))
    ledger.close()
    home().rename(tmp_path / "moved")
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "moved"))
    assert Ledger.open().outcome(spec.fingerprint).adapter_folder == tmp_path / "moved" / "adapters" / "x"


def test_unknown_trials_and_foreign_outcomes_are_refused(ledger, spec, tmp_path):
    assert ledger.get("f" * 64) is None
    for call in (
        lambda: ledger.claim("f" * 64, owner_id()),
        lambda: ledger.outcome("f" * 64),
        lambda: ledger.trained("f" * 64, make_outcome(spec, tmp_path)),
        lambda: ledger.finish("f" * 64, "run", make_outcome(spec, tmp_path)),
    ):
        with pytest.raises(InputError, match="ledger: "):
            call()


def test_decisions_are_an_audit_trail(ledger, spec):
    ledger.record_decision(
        "dept-tiny-a",
        "a",
        "first",
        "no champion yet",
        challenger_fingerprint=spec.fingerprint,
        challenger_version="1",
        challenger_score=75.0,
    )
    ledger.record_decision("dept-tiny-a", "a", "not-stale", "nothing changed", champion_version="1")
    ledger.record_decision("dept-tiny-b", "b", "first", "no champion yet")
    rows = ledger.decisions("dept-tiny-a")
    assert [row.decision for row in rows] == ["first", "not-stale"]
    assert rows[0].challenger_score == 75.0
    assert rows[0].at.tzinfo is not None
    assert len(ledger.decisions()) == 3
    with pytest.raises(InputError, match="not recorded"):
        ledger.record_decision("m", "a", "kept", "x", challenger_fingerprint="f" * 64)
    with pytest.raises(InputError, match="not recorded"):
        ledger.record_decision("m", "a", "perhaps", "x")


def test_a_ledger_that_cannot_be_written_says_so(ledger, spec):
    with ledger.engine.begin() as connection:
        connection.execute(text("alter table trials rename to elsewhere"))
    with pytest.raises(InputError, match=r"no such table.*goes on from here"):
        ledger.find()
