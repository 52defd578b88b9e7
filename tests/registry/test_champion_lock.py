"""Two processes never decide about one champion at once."""

import threading
import time

import pytest
from sqlalchemy import delete, update
from tenacity import wait_fixed

from infra.errors import InputError
from registry.ledger import Ledger
from registry.ledger.locks import Locks
from registry.ledger.schema import LockRow
from registry.promotion import versions
from registry.promotion.alone import ChampionChangedError
from registry.promotion.champion import decide, match
from registry.tracking import Tracker, patience
from tasks.spec import Task
from tests.registry.promotion_helpers import ID, NAME, World, always, half
from tests.registry.registry_helpers import make_spec


def test_another_process_decided_meanwhile(world):
    world.fight(world.trial(0), always, always)
    of = match(world, world.trial(1), ())
    answered = world.judged(of, {"champion": half, "challenger": always})
    world.fight(world.trial(2), half, always)
    with pytest.raises(ChampionChangedError):
        decide(world, of, answered)


def test_a_lock_outlasts_an_mlflow_that_is_away(world, monkeypatch):
    """Longer than the lock's lease: nobody else decides meanwhile."""
    plain = Locks.lock
    monkeypatch.setattr(
        Locks, "lock", lambda ledger, name, wait_seconds=None: plain(ledger, name, wait_seconds, lease_seconds=1.0)
    )
    first, away, others = world.trial(0), [4], []
    call = world.tracker.client.create_registered_model

    def silent(*args, **options):
        if away[0]:
            away[0] -= 1
            time.sleep(0.5)
            try:
                with Ledger.open().lock(f"champion:mood:{ID}", wait_seconds=0.0):
                    others.append("another decides")
            except InputError:
                pass
            raise ConnectionError("away")
        return call(*args, **options)

    monkeypatch.setattr(patience, "wait_random_exponential", lambda *args, **options: wait_fixed(0.2))
    monkeypatch.setattr(world.tracker.client, "create_registered_model", silent)
    assert world.fight(first, always, always).decision == "first"
    assert (away, others) == ([0], [])


def test_who_loses_the_lock_decides_nothing_and_matches_again(world, monkeypatch):
    world.fight(world.trial(0), always, always)
    of = match(world, world.trial(1), ())
    answered = world.judged(of, {"champion": half, "challenger": always})
    register = versions.register

    def slow(*args):
        made = register(*args)
        with world.ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            connection.execute(update(LockRow).values(token="of another"))
        return made

    monkeypatch.setattr(versions, "register", slow)
    with pytest.raises(ChampionChangedError):
        decide(world, of, answered)
    monkeypatch.setattr(versions, "register", register)
    with world.ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(delete(LockRow))
    assert [row.decision for row in world.ledger.decisions(NAME)] == ["first"]
    assert world.fight(of.candidate, half, always).decision == "promoted"


def test_the_model_of_all_tasks_loses_no_field_where_two_make_it_at_once(world, monkeypatch):
    make, threads = versions.log_backbone_model, []

    def register(field):
        body = {"description": "d", "license": "CC0-1.0", "template": f"{{{field}}} :"}
        body |= {"verbalizer": {"pos": "good", "neg": "bad"}, "source": {"kind": "file", "path": "x.csv"}}
        body["source"] |= {"columns": {field: field}}
        mine = World(Ledger.open(), world.store, Tracker(), {field: Task.build(field, body, "test")})
        run = mine.tracker.open_flow_run(field, {}, {})
        return versions.register_all_tasks(mine, make_spec(task=field, backbone_id=ID), run)

    def slow(*args):
        if not threads:  # meanwhile another run decides about a task with another field
            threads.append(threading.Thread(target=register, args=["headline"]))
            threads[0].start()
            threads[0].join(timeout=2.0)
        return make(*args)

    monkeypatch.setattr(versions, "log_backbone_model", slow)
    made = register("abstract")
    threads[0].join()
    now = versions.by_alias(world.tracker, made.name, "champion")
    assert {"abstract", "headline"} <= set(now.tags["fields"].split(","))
