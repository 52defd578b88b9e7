"""One ledger in many processes and threads."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from infra.identity import process_id
from registry.ledger import Ledger
from tests.registry.ledger_helpers import claim_one, make_outcome, make_spec


def test_a_ledger_of_another_process_sees_the_same(ledger, ledger_url):
    claim = claim_one(ledger, make_spec())
    other = Ledger.open(ledger_url)
    assert other.trained(claim, make_outcome(claim.spec))
    assert ledger.get(claim.fingerprint).status == "trained"


def test_many_threads_and_a_forked_child_share_an_open_ledger(ledger):
    ledger.add([make_spec(seed=seed) for seed in range(60)])
    start = threading.Barrier(20)

    def take(_):
        start.wait()
        return [claim.fingerprint for _ in range(3) for claim in ledger.claim(process_id(), 1)]

    with ThreadPoolExecutor(20) as pool:
        taken = [key for keys in pool.map(take, range(20)) for key in keys]
    assert len(taken) == len(set(taken)) == 60
    pid = os.fork()
    if not pid:  # the child must not touch the connections that it has inherited
        os._exit(0 if ledger.counts() == {"running": 60} else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert ledger.counts() == {"running": 60}
