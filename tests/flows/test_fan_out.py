"""Which workers a controller keeps going: against a real Prefect server, whose flow runs end as the test says."""

import contextlib
import logging
import uuid
from types import SimpleNamespace

import pytest
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows import work
from flows.execution import fan_out
from flows.execution.fan_out import FanOut, workers_for
from flows.execution.settle import work_here
from flows.work import dept_work
from infra.errors import InputError
from infra.flow_run import present_name
from infra.prefect_api import client
from infra.worker_runs import DID_NOTHING, look
from registry.ledger import Ledger
from tests.flows.pool_helpers import deploy
from tests.registry.ledger_helpers import make_spec

OTHER = "elsewhere:1:2:3:4"


@pytest.fixture
def pool(prefect_url, monkeypatch):
    """A run of five trials, its crew, and how the test ends their flow runs."""
    monkeypatch.setattr(fan_out, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(fan_out, "PAUSE", 0.0)
    deploy(prefect_url, limit=2)
    ledger = Ledger.open()
    run_id = ledger.begin_run("mine", {})
    ledger.add([make_spec(seed=seed) for seed in range(5)], run_id, "targets")
    context = SimpleNamespace(ledger=ledger, run_id=run_id, order=SimpleNamespace(name="mine"))
    made = []

    def crew(wanted=None):
        made.append(FanOut(wanted))
        return made[-1]

    def end(run, state, message=""):
        with client(prefect_url) as asked:
            asked.set_flow_run_state(run, State(type=StateType(state), message=message), force=True)

    yield SimpleNamespace(context=context, ledger=ledger, crew=crew, end=end, api=prefect_url)
    for one in made:
        one.end()


def test_up_to_so_many_workers_and_none_without_work(pool):
    crew = pool.crew(4)
    assert crew(pool.context) == 0
    with client(pool.api) as asked:
        made = [asked.read_flow_run(run) for run in crew.runs]
    assert {(run.name, tuple(sorted(run.tags))) for run in made} == {
        (f"mine worker {number}", ("dept", "mine")) for number in (1, 2)
    }
    assert len(pool.ledger.workers(pool.context.run_id)) == 2  # their share is left to them
    assert len(crew.runs) == 2  # the pool takes no more at a time
    crew(pool.context)
    assert len(crew.runs) == 2
    pool.ledger.claim(OTHER, 4, run_id=pool.context.run_id, lease_seconds=600)
    crew.end()
    one = pool.crew()
    one(pool.context)
    assert len(one.runs) == 1  # for the one trial that is free
    pool.ledger.claim(OTHER, 1, run_id=pool.context.run_id, lease_seconds=600)
    one.end()
    none = pool.crew()
    none(pool.context)
    assert not none.runs


def test_without_a_number_it_is_the_limit_of_the_pool_as_it_is_now(pool):
    crew = pool.crew()
    crew(pool.context)
    assert len(crew.runs) == 2
    with client(pool.api) as asked:
        asked.update_work_pool("gpu", WorkPoolUpdate(concurrency_limit=3))
    crew(pool.context)
    assert len(crew.runs) == 3
    deploy(pool.api, limit=None)
    crew.end()
    one = pool.crew()
    one(pool.context)
    assert len(one.runs) == 1


def test_a_crashed_worker_is_replaced_and_a_cancelled_one_is_not(pool):
    crew = pool.crew(2)
    crew(pool.context)
    first, second = crew.runs
    pool.end(first, "CRASHED", "it was killed")
    crew(pool.context)
    assert len(crew.runs) == 2
    assert first not in crew.runs
    pool.end(second, "CANCELLED")
    crew(pool.context)
    assert len(crew.runs) == 1


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_one_that_was_taken_and_never_begun_is_crashed_and_replaced(pool, monkeypatch, caplog, state):
    """Its machine died in between; or it runs for Prefect, but its process never came to the ledger."""
    crew = pool.crew(1)
    crew(pool.context)
    (first,) = crew.runs
    pool.end(first, state)
    crew(pool.context)
    assert list(crew.runs) == [first]  # it is given its time
    monkeypatch.setattr(fan_out, "BEGIN_SECONDS", 0.0)
    crew(pool.context)
    assert len(crew.runs) == 1
    assert first not in crew.runs
    assert look([first])[first].state == "CRASHED"
    assert "not begun within" in caplog.text
    (second,) = crew.runs
    pool.end(second, "RUNNING")
    pool.ledger.attend(present_name(second), "elsewhere:1:2:3:4", pool.context.run_id)
    crew(pool.context)
    pool.ledger.depart(present_name(second))  # as one that is long at a stack is forgotten
    crew(pool.context)
    assert list(crew.runs) == [second]


def test_one_that_found_nothing_to_do_is_not_replaced_at_once(pool, monkeypatch, caplog):
    monkeypatch.setattr(fan_out, "PAUSE", 100.0)
    crew = pool.crew(1)
    for message in (DID_NOTHING, "did 1 group of trials", DID_NOTHING, DID_NOTHING):
        crew(pool.context)
        pool.end(next(iter(crew.runs)), "COMPLETED", message)
    for _ in range(2):
        crew(pool.context)
        assert not crew.runs
    assert "found nothing that it could do of 5 free trials; the next one comes in 100 s" in caplog.text
    pool.ledger.end_run(pool.context.run_id)
    assert dept_work(pool.context.run_id, return_state=True).message == DID_NOTHING
    assert work._done(2).message == "did 2 groups of trials"


def test_a_controller_that_was_started_again_knows_the_workers_of_its_run(pool):
    before = pool.crew(2)
    before(pool.context)
    first, second = before.runs
    pool.end(first, "RUNNING")
    after = pool.crew(2)
    after(pool.context)
    assert set(after.runs) == {first, second}
    pool.end(first, "CANCELLED")


def test_another_stands_in_for_a_suspended_one_which_is_taken_back_in_the_end(pool, caplog):
    crew = pool.crew(2)
    crew(pool.context)
    first, _ = crew.runs
    pool.end(first, "PAUSED")
    for _ in range(2):
        crew(pool.context)
    assert len(crew.runs) == 3
    assert caplog.text.count("was suspended") == 1
    crew.end()
    assert look([first])[first].state == "CANCELLED"


def test_many_are_looked_at_in_parts(monkeypatch):
    """Prefect's server refuses to tell of more than 200 at once."""

    class Server:
        def read_flow_runs(self, flow_run_filter, limit):
            assert len(flow_run_filter.id.any_) <= limit <= 200
            return [FlowRun(id=one, flow_id=one, name="there") for one in flow_run_filter.id.any_]

    monkeypatch.setattr(fan_out.worker_runs, "client", lambda: contextlib.nullcontext(Server()))
    found = look([str(uuid.uuid4()) for _ in range(450)])
    assert (len(found), {run.name for run in found.values()}) == (450, {"there"})


def test_workers_that_fail_again_and_again_end_the_run_with_their_reason(pool):
    crew = pool.crew(1)
    for _ in range(3):
        crew(pool.context)
        pool.end(next(iter(crew.runs)), "FAILED", "store http://me:s3cr3t@host is away")
    claim, *_ = pool.ledger.claim(OTHER, 1, run_id=pool.context.run_id, lease_seconds=600)
    pool.ledger.fail(claim, "done with")
    for _ in range(2):  # something got done, so it is counted anew
        crew(pool.context)
        pool.end(next(iter(crew.runs)), "FAILED", "store http://me:s3cr3t@host is away")
    crew(pool.context)
    pool.end(next(iter(crew.runs)), "FAILED", "store http://me:s3cr3t@host is away")
    with pytest.raises(InputError, match=r"4 times in a row.*store .* is away.*Remedy") as raised:
        crew(pool.context)
    assert "s3cr3t" not in str(raised.value)


def test_a_machine_that_dies_with_many_workers_is_one_fault(pool):
    deploy(pool.api, limit=5)
    crew = pool.crew(5)
    crew(pool.context)
    first = list(crew.runs)
    assert len(first) == 5
    for lost in (first[:3], first[3:]):  # Prefect hears of some of them later
        for run in lost:
            pool.end(run, "CRASHED", "its machine is gone")
        crew(pool.context)
    assert len(crew.runs) == 5
    assert not crew.runs.keys() & set(first)
    for _ in range(2):  # those that take their places fail as well: two faults more
        for run in list(crew.runs):
            pool.end(run, "CRASHED", "its machine is gone")
        crew(pool.context)
    for run in list(crew.runs):
        pool.end(run, "CRASHED", "its machine is gone")
    with pytest.raises(InputError, match=r"4 times in a row.*machine is gone"):
        crew(pool.context)


def test_a_pool_without_a_live_worker_is_said_once_and_waited_for(pool, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(fan_out, "_artifact", told.append)
    caplog.set_level(logging.INFO, "flows.execution.fan_out")
    crew = pool.crew(1)
    for _ in range(3):
        assert crew(pool.context) == 0
    (line,) = told
    assert "5 trials wait: the pool gpu has no live worker. Remedy: `dept up`" in line
    assert caplog.text.count("no live worker") == 1
    with client(pool.api) as asked:
        asked.send_worker_heartbeat("gpu", "lives")
    crew(pool.context)
    assert len(told) == 2
    with client(pool.api) as asked:
        asked.update_work_pool("gpu", WorkPoolUpdate(is_paused=True))
    crew(pool.context)
    assert "paused" in told[-1]
    with client(pool.api) as asked:
        asked.update_work_pool("gpu", WorkPoolUpdate(is_paused=False))


def test_what_has_not_begun_is_taken_back_in_the_end(pool):
    crew = pool.crew(2)
    crew(pool.context)
    waiting, begun = list(crew.runs)
    pool.end(begun, "RUNNING")
    crew.end()
    assert {one: run.state for one, run in look([waiting, begun]).items()} == {waiting: "CANCELLED", begun: "RUNNING"}
    pool.end(begun, "CANCELLED")


def test_a_server_that_is_away_stops_nothing(pool, monkeypatch, caplog):
    crew = pool.crew(1)
    crew(pool.context)
    with monkeypatch.context() as patch:
        patch.setattr(fan_out.worker_runs, "look", lambda ids: (_ for _ in ()).throw(ConnectionError("refused")))
        assert crew(pool.context) == 0
        assert "does not answer (refused)" in caplog.text
    crew(pool.context)
    assert len(crew.runs) == 1


@pytest.mark.parametrize("where", ["by hand", "gpu", "control"])
def test_a_controller_never_waits_in_the_pool_of_its_workers(pool, monkeypatch, where):
    if where != "by hand":
        with client(pool.api) as asked:
            made = asked.create_deployment(asked.create_flow_from_name("dept-transfer"), "odd", work_pool_name=where)
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(made))
    with workers_for(2) as workers:
        assert isinstance(workers, FanOut) if where == "control" else workers is work_here


def test_a_missing_deployment_is_one_line(prefect_url, monkeypatch):
    monkeypatch.setattr(fan_out.worker_runs.place, "__defaults__", ("dept-work/none",))
    with pytest.raises(InputError, match=r"deployment dept-work/none: not on this Prefect server.*Remedy: `dept up`"):
        fan_out.worker_runs.place()
