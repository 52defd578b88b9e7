"""What the bookkeeping of 15,000 trials costs, without any training.

Bounds are on processor time, which other work on the machine does not lengthen; what the disk adds is printed.
"""

import time

import pytest

from infra.identity import process_id
from registry.ledger import Ledger
from tests.registry.ledger_helpers import make_outcome, make_spec

TRIALS = 15_000


def outcome_of(claim):
    """As many numbers as a trial of 60 steps leaves."""
    curve = [(step, 2.0 - step / 100) for step in range(60)]
    return make_outcome(claim.spec, claim.key, loss_curve=curve, validation_curve=curve[::5])


def fastest(call, times=5):
    found = []
    for _ in range(times):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return min(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_ledger_keeps_15000_trials_in_under_5_ms_each(tmp_path, record_property):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    run = ledger.begin_run("many", {})
    specs = [make_spec(seed=seed, task=f"task-{seed % 100}") for seed in range(TRIALS)]
    busy, started = time.process_time(), time.perf_counter()
    assert ledger.add(specs, run, "targets") == TRIALS
    polls = [fastest(lambda: ledger.counts(run, "targets"))]
    while claims := ledger.claim(process_id(), 64, run_id=run, stage="targets"):
        outcomes = [outcome_of(claim) for claim in claims]
        assert len(ledger.trained_many([(c, o, {}) for c, o in zip(claims, outcomes, strict=True)])) == len(claims)
        assert len(ledger.finish_many([(c, "run", o) for c, o in zip(claims, outcomes, strict=True)])) == len(claims)
    took, busy = time.perf_counter() - started, time.process_time() - busy
    polls += [fastest(lambda: ledger.counts(run, "targets")), fastest(lambda: ledger.left(run, "targets"))]
    told = f"{1000 * took / TRIALS:.2f} ms a trial ({1000 * busy / TRIALS:.2f} busy), a poll {1000 * max(polls):.1f} ms"
    record_property("ledger", told)
    print(told)
    assert ledger.counts(run) == {"finished": TRIALS}
    assert busy / TRIALS < 0.005, told
    assert max(polls) < 0.05, told
