"""What becomes of a trial that fails, is damaged, or is not wanted any more."""

import pytest
from sqlalchemy import text

from infra.errors import InputError
from infra.identity import process_id
from registry.store import Store
from tests.registry.ledger_helpers import claim_one, finish, make_outcome, make_spec


def test_a_finished_trial_stays_finished(ledger):
    spec = make_spec()
    claim = claim_one(ledger, spec)
    assert ledger.finish(claim, "run", make_outcome(spec))
    assert not ledger.fail(claim, "late")
    assert not ledger.trained(claim, make_outcome(spec, seconds=9.0))
    assert ledger.finish(claim, "other", make_outcome(spec, seconds=9.0))  # its own result stands: that is no loss
    row = ledger.get(spec.fingerprint)
    assert (row.status, row.mlflow_run_id, row.outcome["seconds"]) == ("finished", "run", 1.5)


def test_a_failed_trial_stays_failed_until_it_is_asked_for(ledger):
    run = ledger.begin_run("a", {})
    specs = [make_spec(seed=seed) for seed in range(4)]
    ledger.add(specs[:2], run, "x")
    ledger.add(specs)
    for claim in ledger.claim(process_id()):
        assert ledger.fail(claim, "loss exploded")
    assert ledger.add(specs) == 0
    assert ledger.claim(process_id()) == []
    assert ledger.get(specs[0].fingerprint).error == "loss exploded"
    assert ledger.retry([specs[0].fingerprint, "f" * 64]) == 1
    assert ledger.retry(run_id=run) == 1
    claims = ledger.claim(process_id())
    assert [(claim.spec.seed, claim.attempt) for claim in claims] == [(0, 3), (1, 3)]
    assert ledger.retry() == 2
    assert ledger.counts() == {"running": 2, "pending": 2}


def test_a_lost_file_sends_its_trial_back_and_the_reason_is_noted(ledger):
    spec = make_spec()
    finish(ledger, make_outcome(spec))
    attempt = ledger.get(spec.fingerprint).attempt
    assert not ledger.heal(spec.fingerprint, "of an earlier result", attempt - 1)
    assert ledger.heal(spec.fingerprint, "adapter.safetensors is missing", attempt)
    assert not ledger.heal(spec.fingerprint, "a second look", attempt)
    row = ledger.get(spec.fingerprint)
    assert (row.status, row.note, row.outcome, row.adapter_key, row.adapter_sha256, row.mlflow_run_id) == (
        *("pending", "adapter.safetensors is missing", None, None, None, None),
    )
    assert ledger.outcomes([spec.fingerprint]) == {}
    (claim,) = ledger.claim(process_id())
    assert claim.status == "running"
    assert claim.attempt > attempt
    assert ledger.finish(claim, "again", make_outcome(spec))
    assert ledger.get(spec.fingerprint).note == "adapter.safetensors is missing"


def test_who_held_a_trial_that_was_healed_writes_nothing(ledger):
    spec = make_spec()
    claim = claim_one(ledger, spec)
    ledger.trained(claim, make_outcome(spec))
    assert ledger.heal(spec.fingerprint, "gone")
    assert not ledger.finish(claim, "run", make_outcome(spec))
    assert ledger.renew([claim]) == set()
    assert ledger.get(spec.fingerprint).status == "pending"
    running = claim_one(ledger, spec)
    assert not ledger.heal(spec.fingerprint, "gone")  # it has no result to lose
    assert ledger.renew([running]) == {spec.fingerprint}


def test_what_is_forgotten_is_gone_and_may_come_anew(ledger):
    specs = [make_spec(seed=seed) for seed in range(2)]
    run = ledger.begin_run("a", {})
    ledger.add(specs, run, "x")
    finish(ledger, make_outcome(specs[0], "adapters/one"))
    (claim,) = ledger.claim(process_id())
    ledger.forget([spec.fingerprint for spec in specs])
    assert (ledger.find(), ledger.counts(run)) == ([], {})
    assert not ledger.finish(claim, "run", make_outcome(specs[1]))
    assert ledger.add(specs, run, "x") == 2


def test_reasons_hold_no_credentials(ledger):
    claim = claim_one(ledger, make_spec())
    ledger.fail(claim, "no answer from https://ada:s3cret@host/x")
    assert "s3cret" not in ledger.get(claim.fingerprint).error


def test_the_file_comes_before_the_row(ledger, monkeypatch, tmp_path):
    """A store that refuses: the worker gets one line, and the trial is not entered as trained."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "adapter.safetensors").write_bytes(b"x")
    claim = claim_one(ledger, make_spec())
    with pytest.raises(InputError, match=r"store .*cannot write adapters.*Remedy"):
        Store.open(str(tmp_path / "file" / "store")).put_folder(tmp_path / "made", claim.key)
    assert ledger.get(claim.fingerprint).status == "running"
    ledger.release([claim])
    assert ledger.counts() == {"pending": 1}


def test_a_ledger_that_cannot_be_written_says_so(ledger):
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(text("alter table dept_trials rename to elsewhere"))
    with pytest.raises(InputError, match=r"dept_trials.*goes on from here") as caught:
        ledger.find()
    assert "\n" not in str(caught.value)
