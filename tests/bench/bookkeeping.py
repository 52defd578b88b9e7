"""A run of many trials without a backbone: all that is remembered of them, and nothing that is learned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.reporting.html import PAGE, write_report
from infra.identity import process_id
from registry.ledger import Claim, Ledger
from registry.store import Store
from registry.tracking import Tracker, TrialLog
from tests.flows.report_helpers import many

GROUP = 64  # trials that a worker claims at once
STAGE = "targets"
POLLS = 20


@dataclass
class Costs:
    """Seconds by stage: wall clock and of this process, which other work on the machine does not lengthen."""

    trials: int
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    poll: float = 0.0  # seconds of a poll by a waiting controller, the median of POLLS
    page: Path = Path()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the block to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[stage] = self.wall.get(stage, 0.0) + time.perf_counter() - wall
        self.cpu[stage] = self.cpu.get(stage, 0.0) + time.process_time() - cpu

    def milliseconds(self, of: dict[str, float]) -> float:
        """A trial's share of all stages."""
        return 1000 * sum(of.values()) / self.trials

    def lines(self) -> list[str]:
        """A table: stage, ms a trial by the clock, ms of this process, share of the whole."""
        total = sum(self.wall.values())
        each = 1000 / self.trials
        body = [
            f"{stage:<10} {each * wall:8.2f} {each * self.cpu[stage]:8.2f} {wall / total:7.0%}"
            for stage, wall in self.wall.items()
        ]
        return [
            f"{self.trials:,} trials  ms each  of process  share",
            *body,
            f"{'in all':<10} {self.milliseconds(self.wall):8.2f} {self.milliseconds(self.cpu):8.2f}",
            f"a poll {1000 * self.poll:.1f} ms; report.html {self.page.stat().st_size / 1e6:.2f} MB",
        ]


def costs_of(trials: int, home: Path) -> Costs:
    """Plan, add, claim, store, log, finish, wait for and report about `trials` trials; $DEPT_HOME is `home`."""
    adapter = home / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter.safetensors").write_bytes(bytes(33_000))  # m=10, r=4, s=64 on d=576
    (adapter / "adapter.json").write_text("{}" * 600, encoding="utf-8")
    ledger, store, tracker = Ledger.open(), Store.open(), Tracker()
    parent = tracker.open_flow_run("bookkeeping", {}, {})
    run_id = ledger.begin_run("bookkeeping", {}, mlflow_run_id=parent)
    targets = max(1, round(trials / 51))  # `many` makes 51 trials a target
    costs = Costs(0)
    with costs.timed("plan"):
        specs = [made.spec for made in many(targets)]
        fingerprints = [spec.fingerprint for spec in specs]
    costs.trials = len(specs)
    with costs.timed("add"):
        ledger.add(specs, run_id, STAGE)
    results = {made.spec.fingerprint: made for made in many(targets)}
    while True:
        with costs.timed("claim"):
            claims = ledger.claim(process_id(), GROUP, run_id=run_id, stage=STAGE)
        if not claims:
            break
        _close(costs, ledger, store, tracker, parent, claims, results, adapter)
    polls = []
    for _ in range(POLLS):
        start = time.perf_counter()
        assert ledger.left(run_id, STAGE) == 0
        polls.append(time.perf_counter() - start)
    costs.poll = statistics.median(polls)
    with costs.timed("read"):
        outcomes = list(ledger.outcomes(fingerprints).values())
    assert len(outcomes) == len(specs)
    with costs.timed("report"):
        costs.page = write_report(home / "reports" / run_id, "bookkeeping", {}, outcomes)
    tracker.close_flow_run(parent, "FINISHED", {"trials": len(specs)}, [home / "reports" / run_id / PAGE])
    ledger.end_run(run_id)
    return costs


def _close(costs, ledger, store, tracker, parent, claims: list[Claim], results, adapter: Path) -> None:
    done = []
    for claim in claims:
        made = results[claim.fingerprint]
        with costs.timed("store"):
            store.put_folder(adapter, claim.key)
        done.append((claim, _finished(made, claim)))
    with costs.timed("trained"):
        ledger.trained_many([(claim, made, None) for claim, made in done])
    with costs.timed("mlflow"):
        runs = tracker.log_trials(
            parent, [TrialLog(made, claim.attempt, store.fetch(claim.key)) for claim, made in done]
        )
    with costs.timed("finish"):
        ledger.finish_many([(claim, runs[claim.fingerprint], made) for claim, made in done])


def _finished(made, claim: Claim):
    return replace(made, spec=claim.spec, adapter_key=claim.key)
