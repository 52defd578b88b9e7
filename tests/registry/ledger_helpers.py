"""Specs, outcomes and claims for tests of the ledger. No torch: processes that tests start import this."""

from sqlalchemy import update

from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from infra.identity import process_id
from registry.ledger import Claim, Ledger
from registry.ledger.clock import now
from registry.ledger.schema import TrialRow


def make_spec(**changes) -> TrialSpec:
    fields = {
        "backbone": "tiny",
        "backbone_id": "b" * 64,
        "task": "movie-polarity",
        "task_version": 1,
        "data_hash": "d" * 64,
        "role": "target",
        "init": "scratch",
        "shots": 16,
        "seed": 0,
        "prompt_text": "x",
        "adapter": AdapterConfig(),
        "training": TrainConfig(),
        "test_rows": 200,
    }
    return TrialSpec(**{**fields, **changes})


def make_outcome(spec: TrialSpec, key: str = "", **changes) -> TrialOutcome:
    fields = {
        "best_step": 20,
        "steps_done": 60,
        "validation": {"accuracy": 75.0},
        "test": {"accuracy": 70.5},
        "loss_curve": [(1, 2.5), (2, 1.5)],
        "validation_curve": [(20, 75.0)],
        "seconds": 1.5,
        "tokens": 900,
        "tokens_per_second": 600.0,
        "peak_memory_mib": 512.0,
        "trainable": 9000,
        "cut_rows": 3,
        "extra": {"shots": ["a", "b"]},
    }
    key = key or f"adapters/{spec.fingerprint}/1"
    return TrialOutcome(spec=spec, adapter_key=key, adapter_sha256="a" * 64, **{**fields, **changes})


def finish(ledger: Ledger, outcome: TrialOutcome, run_id: str = "run") -> None:
    """Bring a trial to its end, as a worker does; one that is there already stays as it is."""
    ledger.add([outcome.spec])
    if ledger.get(outcome.spec.fingerprint).status == "finished":
        return
    claims = {claim.fingerprint: claim for claim in ledger.claim(process_id(), 1000)}
    claim = claims.pop(outcome.spec.fingerprint)
    ledger.release(claims.values())
    assert ledger.trained(claim, outcome)
    assert ledger.finish(claim, run_id, outcome)


def claim_one(ledger: Ledger, spec: TrialSpec, **how) -> Claim:
    """Add a trial and claim it, and nothing else."""
    ledger.add([spec])
    (claim,) = ledger.claim(process_id(), 1, **how)
    assert claim.fingerprint == spec.fingerprint
    return claim


def age_leases(ledger: Ledger, seconds: float) -> None:
    """Let `seconds` pass for every lease."""
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(update(TrialRow).where(TrialRow.lease_until.is_not(None)).values(lease_until=now(-seconds)))
