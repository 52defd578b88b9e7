"""Who works on what: no two on one trial, whatever dies, stops or has a wrong clock."""

import json
import os
import signal
import socket
import sys
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from infra.identity import process_id
from registry.ledger.clock import now
from registry.ledger.rows import group_of
from registry.ledger.schema import TrialRow
from tests.registry.ledger_helpers import age_leases, claim_one, finish, make_outcome, make_spec

ELSEWHERE = "another-host:boot:1:1:1"


def test_a_claim_is_a_group_that_can_share_a_backbone(ledger):
    specs = [
        make_spec(seed=0),
        make_spec(seed=1, dtype="bfloat16"),
        make_spec(seed=2, method="prompt-tuning"),
        make_spec(seed=3, method="lora"),
        make_spec(seed=4, backbone_id="c" * 64),
        make_spec(seed=5, kind="evaluate", source_sha256="5" * 64),
        make_spec(seed=6),
    ]
    ledger.add(specs)
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE, 2)] == [0, 2]
    groups = [[claim.spec.seed for claim in ledger.claim(ELSEWHERE)] for _ in range(5)]
    assert groups == [[1], [3], [4], [5, 6], []]


def test_the_group_whose_backbone_is_loaded_comes_first(ledger):
    specs = [make_spec(seed=0), make_spec(seed=1, backbone_id="c" * 64), make_spec(seed=2)]
    ledger.add(specs)
    loaded = group_of(specs[1])
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE, prefer=loaded)] == [1]
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE, prefer=loaded)] == [0, 2]
    assert ledger.claim(ELSEWHERE, prefer=loaded) == []


def test_a_claim_keeps_to_its_run_and_stage(ledger):
    one, two = ledger.begin_run("a", {}), ledger.begin_run("b", {})
    ledger.add([make_spec(seed=0)])
    ledger.add([make_spec(seed=1)], one, "sources")
    ledger.add([make_spec(seed=2)], one, "targets")
    ledger.add([make_spec(seed=3)], two, "targets")
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE, run_id=one, stage="targets")] == [2]
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE, run_id=one)] == [1]
    assert [claim.spec.seed for claim in ledger.claim(ELSEWHERE)] == [0, 3]


def test_each_claim_raises_the_attempt_and_has_a_place_of_its_own(ledger):
    spec = make_spec()
    first = claim_one(ledger, spec)
    ledger.release([first])
    (second,) = ledger.claim(process_id())
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.key.startswith(f"adapters/{spec.fingerprint}/1-")
    assert first.key != second.key


def test_eight_processes_take_300_trials_each_once(ledger, ledger_url, children):
    specs = [make_spec(seed=seed) for seed in range(300)]
    ledger.add(specs)
    workers = [
        children(
            """
ledger, taken = Ledger.open(sys.argv[1]), []
print("ready", flush=True)
input()
while claims := ledger.claim(process_id(), 7):
    taken += [(claim.fingerprint, claim.attempt) for claim in claims]
print(json.dumps(taken), flush=True)
input()
""",
            ledger_url,
        )
        for _ in range(8)
    ]
    assert {worker.stdout.readline().strip() for worker in workers} == {"ready"}
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    taken = [tuple(one) for worker in workers for one in json.loads(worker.stdout.readline())]
    assert sorted(taken) == sorted((spec.fingerprint, 1) for spec in specs)


def test_a_live_owner_is_not_robbed_and_a_lease_that_ended_is(ledger):
    claim = claim_one(ledger, make_spec(), lease_seconds=60)
    assert ledger.claim(ELSEWHERE) == []
    age_leases(ledger, -1)
    assert ledger.claim(ELSEWHERE) == []
    age_leases(ledger, 1)
    (other,) = ledger.claim(ELSEWHERE)
    assert (other.attempt, other.status) == (claim.attempt + 1, "running")


def test_trained_trials_are_given_out_with_their_outcome(ledger):
    spec = make_spec()
    claim = claim_one(ledger, spec)
    outcome = make_outcome(spec, claim.key)
    ledger.trained(claim, outcome)
    assert ledger.claim(ELSEWHERE) == []
    ledger.release([claim])
    (other,) = ledger.claim(ELSEWHERE)
    assert (other.status, other.outcome) == ("trained", outcome)
    assert ledger.finish(other, "run", other.outcome)


def test_finished_and_failed_trials_are_never_given_out(ledger):
    finish(ledger, make_outcome(make_spec()))
    ledger.fail(claim_one(ledger, make_spec(seed=1)), "no")
    age_leases(ledger, 10_000)
    assert ledger.claim(ELSEWHERE) == []


def test_renewing_keeps_what_is_held_and_says_what_is_not(ledger):
    claims = [claim_one(ledger, make_spec(seed=seed)) for seed in range(2)]
    keys = [claim.fingerprint for claim in claims]
    assert ledger.renew(claims, 1000) == set(keys)
    row = ledger.get(keys[0])
    assert 990 < (row.lease_until - row.updated_at).total_seconds() < 1100
    age_leases(ledger, 1)
    (other,) = ledger.claim(ELSEWHERE, 1)
    assert ledger.renew(claims, 1000) == {keys[1]}  # late, but nobody has taken it
    assert ledger.get(other.fingerprint).owner == ELSEWHERE
    assert ledger.renew([]) == set()


@pytest.mark.parametrize("shift", [600, -600])
def test_a_host_whose_clock_is_wrong_changes_nothing(ledger, monkeypatch, shift):
    held, short = claim_one(ledger, make_spec(), lease_seconds=100), make_spec(seed=1)
    wrong, right = time.time, datetime

    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return right.now(tz) + timedelta(seconds=shift)

        @classmethod
        def utcnow(cls):
            return right.utcnow() + timedelta(seconds=shift)

    monkeypatch.setattr(time, "time", lambda: wrong() + shift)
    for name, module in list(sys.modules.items()):
        if name.startswith("registry.ledger") and hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Shifted)
    assert ledger.claim(ELSEWHERE) == []
    claim = claim_one(ledger, short, lease_seconds=100)
    ledger.renew([claim], 100)
    monkeypatch.undo()
    ends = ledger._read(lambda session: dict(session.execute(select(TrialRow.seed, TrialRow.lease_until)).all()))
    assert abs((ends[1] - ends[0]).total_seconds()) < 60
    assert ledger.claim(ELSEWHERE) == []
    age_leases(ledger, 1)
    assert {c.fingerprint for c in ledger.claim(ELSEWHERE)} == {held.fingerprint, short.fingerprint}


def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_wakes(ledger, ledger_url, children):
    specs = [make_spec(seed=seed) for seed in range(3)]
    ledger.add(specs)
    sleeper = children(
        """
ledger = Ledger.open(sys.argv[1])
claims = ledger.claim(process_id(), lease_seconds=1)
ledger.trained(claims[1], make_outcome(claims[1].spec, "of-the-sleeper"))
print("held", flush=True)
input()
out = [make_outcome(claim.spec, "of-the-sleeper", validation={"accuracy": 1.0}) for claim in claims]
told = [sorted(ledger.renew(claims)), sorted(ledger.trained_many([(c, o, {"x": 1}) for c, o in zip(claims, out)])),
        sorted(ledger.finish_many([(c, "late", o) for c, o in zip(claims, out)])),
        ledger.trained(claims[0], out[0]), ledger.finish(claims[1], "late", out[1]), ledger.fail(claims[2], "late")]
ledger.release(claims)
print(json.dumps(told), flush=True)
""",
        ledger_url,
    )
    assert sleeper.stdout.readline().strip() == "held"
    os.kill(sleeper.pid, signal.SIGSTOP)
    age_leases(ledger, 1)
    mine = ledger.claim(process_id())
    assert [(claim.attempt, claim.status) for claim in mine] == [(2, "running"), (2, "trained"), (2, "running")]
    assert mine[1].outcome.adapter_key == "of-the-sleeper"
    for claim in mine[:2]:
        assert ledger.finish(claim, "mine", make_outcome(claim.spec, claim.key))
    before = [ledger.get(spec.fingerprint).__dict__ | {"_sa_instance_state": None} for spec in specs]
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.stdin.write("\n")
    sleeper.stdin.flush()
    assert json.loads(sleeper.stdout.readline()) == [[], [], [], False, False, False]
    assert [ledger.get(spec.fingerprint).__dict__ | {"_sa_instance_state": None} for spec in specs] == before
    assert ledger.outcome(specs[0].fingerprint).adapter_key == mine[0].key
    assert ledger.finish(mine[2], "mine", make_outcome(mine[2].spec))


@pytest.mark.parametrize("reap", [True, False])
def test_after_kill_9_the_next_claim_succeeds_at_once(ledger, ledger_url, children, reap):
    running, trained = make_spec(seed=1), make_spec(seed=2)
    ledger.add([running, trained])
    child = children(
        """
ledger = Ledger.open(sys.argv[1])
claims = ledger.claim(process_id())
ledger.trained(claims[1], make_outcome(claims[1].spec))
print("held", flush=True)
input()
""",
        ledger_url,
    )
    assert child.stdout.readline().strip() == "held"
    assert ledger.claim(process_id()) == []
    os.kill(child.pid, signal.SIGKILL)
    if reap:
        child.wait()
    else:  # a zombie still has a process id
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    claims = ledger.claim(process_id())
    assert [(claim.spec.seed, claim.status, claim.attempt) for claim in claims] == [
        (1, "running", 2),
        (2, "trained", 2),
    ]


def test_a_process_of_another_machine_or_container_is_judged_by_its_lease_alone(ledger):
    host, boot, space, _, start = process_id().split(":")
    assert host == socket.gethostname()
    specs = [make_spec(seed=seed) for seed in range(4)]
    ledger.add(specs)
    gone = [f"{host}:{boot}:{space}:4194303:{start}", f"{host}:{boot}:{space}:{os.getpid()}:{int(start) - 1}"]
    unknown = [f"{host}:other-boot:{space}:4194303:{start}", f"{host}:{boot}:1234:4194303:{start}"]
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        for spec, owner in zip(specs, [*gone, *unknown], strict=True):
            values = {"status": "running", "owner": owner, "lease_until": now(60), "attempt": 1}
            connection.execute(update(TrialRow).where(TrialRow.fingerprint == spec.fingerprint).values(values))
    assert [claim.spec.seed for claim in ledger.claim(process_id())] == [0, 1]


def test_release_makes_running_pending_and_keeps_trained(ledger):
    specs = [make_spec(seed=seed) for seed in range(3)]
    ledger.add(specs)
    mine = ledger.claim(process_id(), 2)
    (theirs,) = ledger.claim(ELSEWHERE)
    ledger.trained(mine[1], make_outcome(specs[1]))
    ledger.release(mine)
    rows = [ledger.get(spec.fingerprint) for spec in specs]
    assert [(row.status, row.owner) for row in rows] == [("pending", None), ("trained", None), ("running", ELSEWHERE)]
    assert not ledger.trained(mine[0], make_outcome(specs[0]))  # let go is let go
    assert not ledger.finish(mine[1], "run", make_outcome(specs[1]))
    ledger.release([theirs])
    assert ledger.counts() == {"pending": 2, "trained": 1}


def test_a_claim_whose_answer_was_lost_is_found_again(ledger, monkeypatch):
    """The database carries a claim out, and the connection breaks before the answer comes."""
    from sqlalchemy.exc import OperationalError

    ledger.add([make_spec(seed=seed) for seed in range(3)])
    once, calls = ledger._once, []

    def lossy(work, write):
        found = once(work, write)
        calls.append(write)
        if calls.count(True) == 1 and write:
            raise OperationalError("claim", {}, Exception("lost"), connection_invalidated=True)
        return found

    monkeypatch.setattr(ledger, "_once", lossy)
    claims = ledger.claim(process_id(), 2)
    assert [(claim.spec.seed, claim.attempt) for claim in claims] == [(0, 1), (1, 1)]
    assert ledger.counts() == {"running": 2, "pending": 1}
    calls.clear()
    assert ledger.finish(claims[0], "run", make_outcome(claims[0].spec))
    calls.clear()
    ledger.record_decision("m", "t", "first", "x")
    assert len(ledger.decisions()) == 1
