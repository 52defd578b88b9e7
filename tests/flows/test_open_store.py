"""A store that is empty though the ledger knows better is not mounted, or another one: nothing is made again."""

import dataclasses

import pytest

from flows.execution.open import store_of
from infra.errors import InputError
from registry.ledger import Ledger
from tests.registry.registry_helpers import make_outcome, make_spec


@pytest.fixture
def ledger():
    ledger = Ledger.open()
    spec = make_spec(role="source", shots=None)
    ledger.add([spec])
    (claim,) = ledger.claim("test")
    outcome = dataclasses.replace(make_outcome(spec), adapter_key=f"adapters/{spec.fingerprint}/1-abc")
    assert ledger.trained(claim, outcome)
    assert ledger.finish(claim, "run", outcome)
    return ledger


def test_an_empty_store_is_refused_where_trials_have_left_adapters(ledger, tmp_path, monkeypatch):
    place = tmp_path / "mount"
    place.mkdir()
    monkeypatch.setenv("DEPT_STORE", str(place))
    with pytest.raises(InputError, match=r"it holds no adapter, but the ledger's trials have left some. Remedy: mount"):
        store_of(ledger)
    assert [row.status for row in ledger.find()] == ["finished"]
    assert list(place.iterdir()) == []
    (place / "adapters").mkdir()  # the remedy for files that are lost for good
    assert store_of(ledger).url == str(place)


def test_a_new_store_and_the_default_one_are_taken(ledger, tmp_path, monkeypatch):
    assert store_of(ledger).url.endswith("store")  # below the home: a lost one heals
    monkeypatch.setenv("DEPT_STORE", str(tmp_path / "new"))
    assert store_of(Ledger.open(f"sqlite:///{tmp_path / 'new.db'}")).is_bare()
