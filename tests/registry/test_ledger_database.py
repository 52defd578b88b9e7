"""The database below the ledger: migrations, ledgers of 0.1.0, URLs, and a server that goes away."""

import json
import shutil

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from dept.trial import SCHEMA
from infra.errors import InputError
from infra.identity import process_id
from registry.ledger import Ledger, database, migrations
from registry.ledger.rows import group_of
from registry.ledger.schema import Base
from tests.registry.ledger_helpers import finish, make_outcome, make_spec
from tests.registry.registry_helpers import mlflow_template

OLD = {  # the spec of a trial as 0.1.0 kept it
    "backbone": "smollm2-135m",
    "backbone_id": "b" * 64,
    "task": "movie-polarity",
    "task_version": 1,
    "data_hash": "d" * 64,
    "role": "target",
    "method": "dept",
    "init": "best-source",
    "shots": 16,
    "per_class": False,
    "seed": 3,
    "source_task": "amazon-polarity",
    "source_sha256": "5" * 64,
    "members": [],
    "prompt_text": "x",
    "adapter": {"m": 10, "r": 4, "s": 64, "alpha": 8.0, "layout": "adjacent"},
    "training": {"steps": 15, "batch_size": 8, "lr_prompt": 0.001, "lr_low_rank": 0.0001},
    "train_rows": None,
    "validation_rows": None,
    "test_rows": 200,
}
NUMBERS = {
    "best_step": 10,
    "steps_done": 15,
    "validation": {"score": 75.0, "loss": "inf"},
    "test": {"score": 70.0},
    "loss_curve": [[1, 2.5], [2, 1.5]],
    "validation_curve": [[5, 75.0]],
    "seconds": 1.5,
    "tokens": 900,
    "tokens_per_second": 600.0,
    "peak_memory_mib": 512.0,
    "trainable": 9000,
    "cut_rows": 0,
    "padding": 1.1,
    "extra": {"metric": "accuracy"},
}


def run(url, *statements, **values):
    engine = create_engine(url)
    with engine.begin() as there:
        found = [there.execute(text(statement), values) for statement in statements][-1]
        rows = found.all() if found.returns_rows else None
    engine.dispose()
    return rows


def tables(url):
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def change(url, move):
    engine = database._engine(url)
    with engine.connect().execution_options(immediate=True) as there, there.begin():
        move(there)
    engine.dispose()


def at_first_revision(there):
    settings = migrations.config()
    settings.attributes["connection"] = there
    command.upgrade(settings, "0001")


def old_ledger(url):
    """A database as 0.1.0 left it: its tables, Alembic's default version table, trials in each state, a decision."""
    change(url, at_first_revision)
    run(url, "drop table dept_alembic_version", "create table alembic_version (version_num varchar(32) primary key)")
    run(url, "insert into alembic_version values ('0001')")
    insert = (
        "insert into trials (fingerprint, task, role, init, shots, seed, backbone, spec, status, owner, heartbeat_at, "
        "attempts, adapter_folder, adapter_sha256, outcome, mlflow_run_id, created_at, updated_at) values "
        "(:fingerprint, 'movie-polarity', 'target', 'best-source', 16, 3, 'smollm2-135m', :spec, :status, :owner, :at, "
        "2, :folder, :sha256, :outcome, :run, :at, :at)"
    )
    for letter, status in (("a", "finished"), ("b", "running"), ("c", "pending"), ("e", "trained")):
        whole = status in ("finished", "trained")
        run(
            url,
            insert,
            fingerprint=letter * 64,
            spec=json.dumps(OLD),
            status=status,
            owner="host:12:34.56" if status == "running" else None,
            at="2026-11-20 10:11:12.131415",
            folder=f"adapters/{letter * 64}" if whole else None,
            sha256="9" * 64 if whole else None,
            outcome=json.dumps(NUMBERS) if whole else None,
            run="run-1" if status == "finished" else None,
        )
    run(
        url,
        "insert into decisions (id, model, task, challenger_fingerprint, challenger_score, decision, reason, at) "
        "values (7, 'dept-x', 'movie-polarity', :fingerprint, 75.0, 'first', 'no champion', :at)",
        fingerprint="a" * 64,
        at="2026-11-20 10:11:12.131415",
    )


def test_migrations_make_the_tables_of_the_schema(ledger):
    with ledger.engine.connect() as there:
        context = MigrationContext.configure(
            there,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "version_table": migrations.VERSION_TABLE,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        checks = {
            check["name"]
            for table in Base.metadata.tables
            for check in inspect(there).get_check_constraints(table)
            if "not_null" not in check["name"]
        }
    assert checks == {"ck_dept_trials_status", "ck_dept_runs_status", "ck_dept_decisions_decision"}
    assert all(name.startswith("dept_") for name in Base.metadata.tables)  # MLflow has tables too


def test_a_file_of_the_first_version_is_kept_beside_the_new_one(tmp_path, caplog):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    old_ledger(url)
    before = run(url, "select * from trials order by fingerprint")
    Ledger.open(url).close()
    (copy,) = tmp_path.glob("ledger.db.*.old")
    assert run(f"sqlite:///{copy}", "select * from trials order by fingerprint") == before
    (line,) = [record.getMessage() for record in caplog.records if record.name == "dept.ledger"]
    assert str(copy) in line
    Ledger.open(url).close()
    Ledger.open(f"sqlite:///{tmp_path / 'new.db'}").close()
    assert list(tmp_path.glob("*.old")) == [copy], "of what is new or up to date no copy is made"


def test_a_ledger_of_the_first_version_opens_and_keeps_its_rows(new_url):
    old_ledger(new_url)
    ledger = Ledger.open(new_url)
    row = ledger.get("a" * 64)
    assert (row.status, row.attempt, row.mlflow_run_id, row.unreadable) == ("finished", 2, "run-1", None)
    assert row.created_at.isoformat() == "2026-11-20T10:11:12.131415+00:00"
    outcome = ledger.outcome("a" * 64)
    assert (outcome.spec.start, outcome.spec.init, outcome.spec.dtype) == ("source", "best-source", None)
    assert (outcome.adapter_key, outcome.validation["loss"]) == (f"adapters/{'a' * 64}", float("inf"))
    assert outcome.loss_curve == [(1, 2.5), (2, 1.5)]
    assert ledger.counts() == {"finished": 1, "failed": 3}
    assert "run its plan again" in ledger.get("b" * 64).error
    (decision,) = ledger.decisions()
    assert (decision.id, decision.challenger_score, decision.reason) == (7, 75.0, "no champion")
    assert ledger.record_decision("dept-x", "movie-polarity", "kept", "next").id == 8
    assert ledger.retry() == 0  # their fingerprints are of another arithmetic
    assert ledger.claim(process_id()) == []
    assert not ledger.heal("a" * 64, "gone")
    finish(ledger, make_outcome(make_spec()))
    assert not {"trials", "decisions", "alembic_version"} & tables(new_url)
    assert Ledger.open(new_url).counts() == {"finished": 2, "failed": 3}


def test_down_and_up_again_keeps_every_row(ledger, ledger_url):
    finish(ledger, make_outcome(make_spec()))
    ledger.add([make_spec(seed=1)])
    ledger.record_decision("m", "t", "rolled-back", "by hand", challenger_fingerprint="f" * 64)
    ledger.record_decision("m", "t", "kept", "x", challenger_fingerprint=make_spec().fingerprint)
    held = make_spec(seed=2, dtype="bfloat16", kind="probe", role="search")
    ledger.add([held])
    ledger.claim("elsewhere:-:-:1:1", 1, prefer=group_of(held))
    change(ledger_url, lambda there: migrations.downgrade(there, "0001"))
    assert {"trials", "decisions"} <= tables(ledger_url)
    assert not {"dept_trials", "dept_locks"} & tables(ledger_url)
    again = Ledger.open(ledger_url)
    assert again.outcome(make_spec().fingerprint).test == make_outcome(make_spec()).test
    rows = {row.seed: (row.status, row.schema_version, row.kind, row.group_key) for row in again.find()}
    assert rows == {
        0: ("finished", SCHEMA, "train", group_of(make_spec())),
        1: ("pending", SCHEMA, "train", group_of(make_spec())),
        2: ("pending", SCHEMA, "probe", group_of(held)),  # nobody works on it any more
    }
    assert again.heal(make_spec().fingerprint, "its file is gone")
    assert {claim.spec.seed for _ in range(2) for claim in again.claim(process_id())} == {0, 1, 2}
    assert [(row.decision, row.reason) for row in again.decisions()] == [
        ("promoted", "rolled-back: by hand"),
        ("kept", "x"),
    ]
    change(ledger_url, lambda there: migrations.downgrade(there, "base"))
    assert tables(ledger_url) == {"dept_alembic_version"}
    assert Ledger.open(ledger_url).find() == []


def test_another_programs_version_table_is_left_alone(new_url):
    run(new_url, "create table alembic_version (version_num varchar(32))", "create table runs (x integer)")
    run(new_url, "insert into alembic_version values ('bd07f7e963c5')")
    finish(Ledger.open(new_url), make_outcome(make_spec()))
    assert run(new_url, "select version_num from alembic_version") == [("bd07f7e963c5",)]


def test_mlflow_may_use_the_same_database(tmp_path):
    from mlflow import MlflowClient

    shutil.copy(mlflow_template(), tmp_path / "both.db")
    url = f"sqlite:///{tmp_path / 'both.db'}"
    finish(Ledger.open(url), make_outcome(make_spec()))
    client = MlflowClient(tracking_uri=url)
    assert client.get_run(client.create_run("0").info.run_id).info.status == "RUNNING"
    assert Ledger.open(url).counts() == {"finished": 1}


def test_a_migration_cut_short_leaves_nothing(new_url, monkeypatch):
    upgrade = migrations.upgrade

    def cut(there):
        upgrade(there)
        raise OSError("power cut")

    monkeypatch.setattr(migrations, "upgrade", cut)
    with pytest.raises(InputError, match="power cut"):
        Ledger.open(new_url)
    monkeypatch.undo()
    assert tables(new_url) == set()
    assert Ledger.open(new_url).find() == []


@pytest.mark.parametrize("old", [False, True])
def test_processes_may_open_a_new_database_at_once(new_url, children, old):
    if old:
        old_ledger(new_url)
    body = "print('ready', flush=True); input(); print(sum(Ledger.open(sys.argv[1]).counts().values()), flush=True)"
    racers = [children(body, new_url) for _ in range(4)]
    assert {racer.stdout.readline().strip() for racer in racers} == {"ready"}
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert {racer.stdout.readline().strip() for racer in racers} == {"4" if old else "0"}
    assert [racer.wait(60) for racer in racers] == [0, 0, 0, 0]


def test_a_ledger_of_a_newer_version_is_refused(ledger, ledger_url):
    run(ledger_url, "update dept_alembic_version set version_num = '9999'")
    with pytest.raises(InputError, match="newer dept-transfer"):
        Ledger.open(ledger_url)
