"""Who is there to work, and what is open, on each kind of database."""

import time

from infra.identity import process_id
from registry.ledger.rows import backbone_of, group_of
from tests.registry.ledger_helpers import make_spec

OTHER, THIRD = "elsewhere:1:2:3:4", "elsewhere:1:2:5:6"
GONE = process_id().rpartition(":")[0] + ":1"  # this process's number at another time


def test_workers_are_those_that_hold_trials_are_there_or_are_about_to_come(ledger):
    run, another = ledger.begin_run("mine", {}), ledger.begin_run("another", {})
    ledger.add([make_spec(seed=seed) for seed in range(4)], run)
    assert ledger.workers(run) == set()
    ledger.claim(OTHER, 1, run_id=run, lease_seconds=60)
    ledger.claim(THIRD, 1, run_id=run, lease_seconds=0.001)
    ledger.attend("flow-run:a", run_id=run)
    ledger.attend(process_id(), process_id())
    ledger.attend("theirs", "elsewhere:1:2:9:9", run_id=another)
    ledger.attend("killed", GONE)
    time.sleep(0.05)
    assert ledger.holders(run) == {OTHER}  # the other one's lease has ended
    assert ledger.workers(run) == {OTHER, "flow-run:a", process_id()}
    ledger.attend("flow-run:a", OTHER, run)  # it has begun, and is the one that holds a trial: counted once
    assert ledger.workers(run) == {OTHER, process_id()}
    ledger.depart(process_id())
    assert ledger.workers(run) == {OTHER}


def test_a_worker_that_says_nothing_any_more_is_forgotten(ledger):
    run = ledger.begin_run("mine", {})
    ledger.attend("a", "elsewhere:1:2:3:4", seconds=0.05)
    time.sleep(0.1)
    assert ledger.workers(run) == set()
    ledger.attend("a", "elsewhere:1:2:3:4", seconds=60)
    assert ledger.workers(run) == {"elsewhere:1:2:3:4"}


def test_what_is_open_by_group(ledger):
    run = ledger.begin_run("mine", {})
    stack = [make_spec(seed=seed) for seed in range(5)]
    single = [make_spec(seed=seed, method="lora") for seed in range(2)]
    ledger.add([*stack, *single], run)
    ledger.add([make_spec(seed=9)], ledger.begin_run("another", {}))
    lots = ledger.lots(run)
    assert [(lot.group, lot.free, lot.open) for lot in lots] == [
        (group_of(stack[0]), 5, 5),
        (group_of(single[0]), 2, 2),
    ]
    assert len({backbone_of(lot.group) for lot in lots}) == 1
    claims = ledger.claim(OTHER, 3, run_id=run, lease_seconds=60)
    assert [(lot.free, lot.open) for lot in ledger.lots(run)] == [(2, 5), (2, 2)]
    assert [lot.free for lot in ledger.lots(run, [stack[3].fingerprint])] == [1, 2]
    ledger.fail(claims[0], "no")
    assert ledger.free(run) == 4
    ledger.renew(claims[1:], 0.001)
    time.sleep(0.05)
    assert ledger.free(run) == 6  # those whose lease has ended can be claimed, too
    assert [(lot.free, lot.open) for lot in ledger.lots(run)] == [(4, 4), (2, 2)]
    ledger.claim(OTHER, 9, run_id=run, lease_seconds=60, prefer=group_of(single[0]))
    assert [lot.group for lot in ledger.lots(run)] == [group_of(stack[0])]


def test_searches_are_a_group_of_their_own_on_the_same_backbone():
    spec = make_spec()
    search = spec.model_copy(update={"kind": "search"})
    assert group_of(search) != group_of(spec)
    assert backbone_of(group_of(search)) == backbone_of(group_of(spec))
