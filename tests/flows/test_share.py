"""How workers divide what is open between them, and in which order they take it."""

import pytest

from flows import work as flow
from flows.execution import work
from flows.execution.work import share
from flows.planning.trials import source_specs
from infra.identity import process_id
from registry.ledger.workers import Lot

OTHERS = [f"elsewhere:1:2:{number}:4" for number in range(3)]


@pytest.mark.parametrize(
    ("pace", "open_", "workers", "most"),
    [
        ("stack", 100, 2, 50),
        ("stack", 64, 4, 16),
        ("stack", 7, 2, 4),
        ("stack", 1, 4, 1),
        ("stack", 1000, 2, 64),  # as many as a stack takes
        ("search", 40, 1, 1),  # each takes long: who holds several has some to spare
        ("single", 40, 2, 1),
        ("single", 40, 1, 40),
    ],
)
def test_a_share(pace, open_, workers, most):
    assert share(Lot(f"weights:float32:{pace}", open_, open_), workers) == most


def taken(monkeypatch):
    """What is claimed, group by group; each is let go, and another worker takes it."""
    made = []

    def note(context, lease, claims):
        made.append([claim.spec.seed for claim in claims])
        for claim in claims:
            context.ledger.fail(claim, "done")
            lease.closed(claim.fingerprint)

    monkeypatch.setattr(work, "_do", note)
    return made


def add(context, plan, count):
    (spec,) = source_specs(plan, context.inputs)
    context.ledger.add([spec.model_copy(update={"seed": seed}) for seed in range(count)], context.run_id, "sources")


def test_a_worker_leaves_the_others_their_part(begin, monkeypatch):
    context, plan = begin(sources=["food"], strategies=["source:food"])
    add(context, plan, 12)
    made = taken(monkeypatch)
    context.ledger.claim(OTHERS[0], 3, run_id=context.run_id, lease_seconds=600)  # one is at work
    context.ledger.attend("flow-run:x", run_id=context.run_id)  # one is about to come
    context.ledger.attend("y", OTHERS[1])  # one waits for work of any run
    assert work.work(context)
    assert made[0] == [3, 4, 5]  # a quarter of all twelve; what comes after that the others have left
    assert sum(map(len, made)) == 9


def test_alone_it_takes_all(begin, monkeypatch):
    context, plan = begin(sources=["food"], strategies=["source:food"])
    add(context, plan, 12)
    made = taken(monkeypatch)
    context.ledger.attend("me", process_id(), context.run_id)
    assert work.work(context) == 1
    assert made == [list(range(12))]


def test_runs_of_the_loaded_backbone_come_first(monkeypatch):
    """And a new run of it before an older one of another."""
    worker = flow._Worker(None, None, flow.Stopping())
    ledger, done = worker.ledger, []
    runs = {name: ledger.begin_run(name, {"backbone": name.rstrip("123")}) for name in ("a1", "b1", "a2")}
    left = dict.fromkeys(runs.values(), 1)
    monkeypatch.setattr(worker.ledger, "free", lambda run_id: left[run_id])

    def work_for(run_id):
        done.append(next(name for name, key in runs.items() if key == run_id))
        left[run_id] = 0
        return 1

    monkeypatch.setattr(worker, "_work_for", work_for)
    assert worker.round() == 1
    runs["a3"] = ledger.begin_run("a3", {"backbone": "a"})
    left[runs["a3"]] = 1
    while worker.round():
        pass
    assert done == ["a1", "a2", "a3", "b1"]
    worker.close()


def test_only_runs_of_one_backbone(monkeypatch):
    worker = flow._Worker(None, "b", flow.Stopping())
    wanted = [worker.ledger.begin_run(name, {"backbone": name}) for name in ("a", "b")][1]
    assert list(worker._known()) == [wanted]
    worker.close()


@pytest.mark.parametrize(
    ("once", "status", "waits"), [(False, "running", True), (True, "running", False), (False, "finished", False)]
)
def test_it_lingers_while_more_may_come(monkeypatch, once, status, waits):
    monkeypatch.setenv("DEPT_LINGER_SECONDS", "100")
    slept, now = [], [0.0]
    monkeypatch.setattr(flow.time, "monotonic", lambda: now[0])

    def sleep(seconds):
        slept.append(seconds)
        now[0] += 10

    monkeypatch.setattr(flow.time, "sleep", sleep)
    ledger = flow.Ledger.open()
    run_id = ledger.begin_run("mine", {})
    if status != "running":
        ledger.end_run(run_id)
    assert flow.run(run_id, once=once) == 0
    assert len(slept) == (10 if waits else 0)
    assert not ledger.workers(run_id)  # it has said good-bye
