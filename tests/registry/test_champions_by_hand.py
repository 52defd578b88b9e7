"""Champions that a person promotes and takes back."""

import pytest

from infra.errors import InputError
from registry.promotion.by_hand import promote, rollback
from tests.registry.promotion_helpers import ID, NAME, aliases, always, champion_now, half


def test_promoted_and_taken_back_by_hand(world):
    first, second, third = (world.trial(seed) for seed in range(3))
    world.fight(first, always, always)
    world.fight(second, half, always)
    row = rollback(world, "mood", ID)
    assert (row.decision, row.challenger_fingerprint) == ("rolled-back", first.spec.fingerprint)
    assert row.champion_fingerprint == second.spec.fingerprint
    assert row.by != "rule"
    assert champion_now(world).fingerprint == first.spec.fingerprint
    assert aliases(world) == {"champion": 1}
    with pytest.raises(InputError, match="no earlier champion"):
        rollback(world, "mood", ID)
    row = promote(world, "mood", ID, fingerprint=third.spec.fingerprint[:10])
    assert (row.decision, champion_now(world).fingerprint) == ("by-hand", third.spec.fingerprint)
    assert promote(world, "mood", ID, version="2").challenger_fingerprint == second.spec.fingerprint
    assert rollback(world, "mood", ID).challenger_fingerprint == third.spec.fingerprint
    assert rollback(world, "mood", ID).challenger_fingerprint == first.spec.fingerprint
    assert [row.decision for row in world.ledger.decisions(NAME)] == [
        "first",
        "promoted",
        "rolled-back",
        "by-hand",
        "by-hand",
        "rolled-back",
        "rolled-back",
    ]
    world.fight(first, always, always)
    assert champion_now(world).fingerprint == first.spec.fingerprint, "a decision by hand is not undone by the next run"


def test_what_cannot_be_promoted(world):
    first = world.trial(0)
    world.fight(first, always, always)
    for wrong in ({"version": "7"}, {"fingerprint": "ffff"}, {"fingerprint": ""}):
        with pytest.raises(InputError, match="Remedy"):
            promote(world, "mood", ID, **wrong)
    with pytest.raises(InputError, match="already"):
        promote(world, "mood", ID, fingerprint=first.spec.fingerprint)
    with pytest.raises(InputError, match="no champion"):
        rollback(world, "other", ID)
