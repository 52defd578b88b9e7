"""Work that is to end: asked every few seconds, heard between steps; what was held is pending again."""

import threading
import time
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, Pause
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Suspended

from flows import pages, transfer
from flows.execution import work as working
from flows.execution.settle import settle
from flows.execution.stopping import ReplacedError, RunEndedError, StoppedError, Stopping, ended
from flows.planning.trials import source_specs
from infra import flow_run
from infra.errors import InputError, may_pass
from infra.prefect_api import client

LONG = {"steps": 100_000, "batch_size": 4, "eval_every": 50_000}


def later(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def test_what_is_asked_is_heard_between_steps_and_no_longer():
    stopping, told = Stopping(seconds=0.05), []
    with stopping.watching(), stopping.asking(lambda: told[0] if told else None):
        time.sleep(0.2)
        stopping.check()
        told.append(StoppedError("as asked"))
        time.sleep(0.2)
        with pytest.raises(StoppedError, match="as asked"):
            stopping.check()
    stopping.check()  # of the next run nobody has asked that
    with pytest.raises(StoppedError), stopping.asking(lambda: told[0]):
        pytest.fail("begun, though it is to end")


def test_a_server_that_is_away_stops_nobody():
    stopping, asked = Stopping(seconds=0.05), []

    def away():
        asked.append(1)
        if len(asked) > 1:
            raise ConnectionError("away")

    with stopping.watching(), stopping.asking(away):
        time.sleep(0.3)
        stopping.check()
    assert len(asked) > 2


def test_a_run_that_was_ended_has_no_workers_and_its_trials_are_pending(begin):
    context, plan = begin(source_training=LONG)
    context.ledger.add(source_specs(plan, context.inputs), context.run_id, "sources")
    context.stopping.seconds = 0.2

    def end():
        assert {row.status for row in context.ledger.find()} == {"running"}
        context.ledger.end_run(context.run_id, "killed")

    timer = later(2, end)
    began = time.monotonic()
    with (
        context.stopping.watching(),
        context.stopping.asking(ended(context.ledger, context.run_id)),
        pytest.raises(RunEndedError, match=r"\(tiny\) is killed"),
    ):
        working.work(context)
    timer.join()
    assert time.monotonic() - began < 12
    assert {(row.status, row.owner) for row in context.ledger.find()} == {("pending", None)}
    assert context.ledger.wait_seconds > 5  # this worker goes on with other runs: it hurries nowhere


def test_a_controller_that_waits_hears_it_too(begin):
    context, plan = begin()
    context.stopping.seconds = 0.1
    told = []
    later(0.5, lambda: told.append(1))
    with (
        context.stopping.watching(),
        context.stopping.asking(lambda: StoppedError("now") if told else None),
        pytest.raises(StoppedError, match="now"),
    ):
        settle(context, "sources", source_specs(plan, context.inputs), lambda _: 0)  # whose workers never come


@pytest.mark.parametrize("how", ["hears of it", "fails first"])
def test_a_controller_that_was_replaced_ends_nothing_of_its_successor(begin, how):
    context, plan = begin()
    context.stopping.seconds = 0.1
    late = pytest.raises(ReplacedError if how == "hears of it" else ZeroDivisionError)
    with late, transfer.begun(context, plan.name, "transfer"):  # a run of its own
        with context.ledger.engine.begin() as connection:
            connection.exec_driver_sql(
                "update dept_runs set owner = 'elsewhere:1:2:3:4' where run_id = ?", (context.run_id,)
            )
        if how == "fails first":
            raise ZeroDivisionError
        settle(context, "sources", source_specs(plan, context.inputs), lambda _: 0)
    assert context.ledger.run(context.run_id).status == "running"
    assert context.tracker.client.get_run(context.parent_run).info.status == "RUNNING"
    assert pages._state_behind(ReplacedError("by another")).is_running()  # so its flow run is left as it is


def test_a_flow_run_is_asked_by_its_state(prefect_url):
    with client(prefect_url) as asked:
        run = asked.create_flow_run(flow(name="dept-asked")(lambda: None))
        question = flow_run.end_asked(run.id.hex)

        def set_to(kind, **more):
            asked.set_flow_run_state(run.id, State(type=kind, **more), force=True)
            return question()

        assert set_to(StateType.RUNNING) is None
        assert set_to(StateType.PAUSED, name="Suspended").name == "Suspended"
        assert set_to(StateType.PAUSED, name="Paused") is None  # its process is to wait, not to end
        others = flow_run.stopped(run.id.hex)  # as its workers ask
        for kind in (StateType.CANCELLING, StateType.CANCELLED, StateType.CRASHED, StateType.SCHEDULED):
            assert set_to(kind).type == kind
            # workers of a controller that crashed, and is to start again, go on
            assert (others() is not None) == (kind in (StateType.CANCELLING, StateType.CANCELLED))
        assert set_to(StateType.PAUSED, name="Suspended")
        assert others().name == "Suspended"
        second = set_to(StateType.RUNNING)
        assert second is not None, "another process makes the next attempt"
        asked.delete_flow_run(run.id)
        assert "deleted" in question().message
        assert others() is None
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        question = flow_run.end_asked(run.id.hex)
    with pytest.raises(ConnectionError):
        question()


@pytest.mark.parametrize("how", ["suspended", "cancelled", "ended"])
def test_a_flow_ends_as_it_was_asked_to(prefect_url, how):
    """No part of it stays Running, and it is no failure."""
    seen = []

    @flow(name="dept-ends")
    def ends():
        with pages.ends(), pages.watched(Stopping(0.1)):
            run = flow_run.own_id()
            seen.append(run)
            state = {"suspended": Suspended(), "cancelled": Cancelling()}.get(how)
            if state is not None:
                with client(prefect_url) as asked:
                    asked.set_flow_run_state(seen[0], state, force=True)

            def body():
                raise RunEndedError("it is killed") if state is None else pages.EndAskedError(state)

            pages.step("part", body)

    with pytest.raises(Pause if how == "suspended" else Abort):
        ends()
    with pytest.raises(InputError, match=r"stopped in Prefect: .*the same command goes on"), pages.ended_in_prefect():
        raise Abort("flow run is cancelling")
    wanted = "PAUSED" if how == "suspended" else "CANCELLED"
    with client(prefect_url) as asked:
        assert asked.read_flow_run(seen[0]).state.type.value == wanted
        deadline = time.monotonic() + 20  # task runs are recorded a little later
        while [part.state and part.state.name for part in parts(asked, seen[0])] != ["Cancelled"]:
            assert time.monotonic() < deadline, parts(asked, seen[0])
            time.sleep(0.2)


def test_a_prefect_that_is_away_keeps_no_part_from_being_done(prefect_url, monkeypatch):
    done = []

    def task(**_):
        def away(part):
            def call():
                if when == "after":
                    part()
                raise ConnectionError("away")

            return call

        return away

    monkeypatch.setattr(pages, "task", task)
    when = "before"
    assert pages.step("part", lambda: done.append(when) or 1) == 1
    when = "after"
    assert pages.step("part", lambda: done.append(when) or 2) == 2
    assert done == ["before", "after"]
    with pytest.raises(ZeroDivisionError):
        pages.step("part", lambda: 1 / 0)


@pytest.mark.parametrize(("error", "tries"), [(ConnectionError("away"), 3), (InputError("a slip"), 1)])
def test_a_run_that_nobody_watches_tries_a_part_again_where_a_store_was_away(prefect_url, monkeypatch, error, tries):
    monkeypatch.setattr(pages, "BACKOFF", 0)
    tried = []

    def body():
        tried.append(1)
        if len(tried) < 3:
            raise error
        return "done"

    @flow(name="dept-again")
    def again():
        monkeypatch.setattr(pages, "runtime", SimpleNamespace(deployment=SimpleNamespace(id="of a pool")))
        return pages.step("part", body)

    if tries == 3:
        assert again() == "done"
    else:
        with pytest.raises(InputError):
            again()
    assert len(tried) == tries


def parts(asked, run):
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    return asked.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))


def test_what_may_pass_is_tried_again_and_what_must_be_mended_is_not():
    def raised(cause):
        try:
            raise InputError("store: cannot write") from cause
        except InputError as error:
            return error

    class EndpointConnectionError(Exception):  # as botocore's
        pass

    assert all(map(may_pass, map(raised, (ConnectionResetError(), TimeoutError(), EndpointConnectionError()))))
    assert may_pass(raised(OSError(5, "input/output error")))
    for error in (OSError(28, "no space left"), PermissionError(13, "no"), ValueError("wrong")):
        assert not may_pass(raised(error))
