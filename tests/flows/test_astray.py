"""A refit whose training became unstable is seen by its own rows, and trained again at half the rates."""

import math

import pytest
from sqlalchemy import update

from dept.trial import OWN_LOSS
from flows import transfer
from flows.execution.settle import work_here
from flows.planning.astray import astray, steadied
from registry.ledger.schema import TrialRow
from tests.flows.test_searches import SEARCH

PLAN = {"targets": ["film"], "strategies": ["scratch"], "search": {**SEARCH, "candidates": 2}, "register": False}


@pytest.fixture
def refit(begin):
    """The refit of one search, its search by fingerprint, and the context that trained them."""
    context, plan = begin(**PLAN)
    done = transfer.stages(context, plan, work_here)
    (one,) = [outcome for outcome in done.outcomes if outcome.spec.refit and outcome.spec.method == "dept"]
    return one, done.searched, context, plan


def test_what_stays_of_a_refit(refit):
    """Its loss on its own rows decides; where that is not known, as in older ledgers, nothing is said against it."""
    one, searched, _, _ = refit
    assert math.isfinite(one.extra[OWN_LOSS])
    assert 0 < one.extra[OWN_LOSS] < 20
    one.extra[OWN_LOSS] = 0.0
    assert astray([one], searched) == {}
    one.extra[OWN_LOSS] = 99.0
    lost = astray([one], searched)
    (slower,) = lost.values()
    key = one.spec.fingerprint
    assert steadied([one], lost, {}) == {key: one}
    better, worse = (type(one)(**{**vars(one), "spec": slower, "extra": {OWN_LOSS: loss}}) for loss in (1.0, 100.0))
    assert steadied([one], lost, {slower.fingerprint: better}) == {key: better}
    assert steadied([one], lost, {slower.fingerprint: worse}) == {key: one}
    assert astray([one], {}) == {}
    del one.extra[OWN_LOSS]
    assert astray([one], searched) == {}


def test_one_that_is_worse_on_what_it_learned_than_on_rows_held_out_is_trained_again(refit, capsys):
    """Whichever of the two answers its own rows better stays, in outcomes and in the report."""
    one, searched, context, plan = refit
    row = context.ledger.get(one.spec.fingerprint)
    unstable = {**row.outcome, "extra": {**row.outcome["extra"], OWN_LOSS: 99.0}}
    mine = update(TrialRow).where(TrialRow.fingerprint == row.fingerprint).values(outcome=unstable)
    context.ledger._write(lambda session: session.execute(mine))
    done = transfer.stages(context, plan, work_here)
    (second,) = [outcome for outcome in done.outcomes if outcome.spec.refit and outcome.spec.method == "dept"]
    assert second.spec.fingerprint != one.spec.fingerprint
    assert second.spec.training.lr_prompt == one.spec.training.lr_prompt / 2
    assert second.extra[OWN_LOSS] < 99
    assert second.spec.variant == one.spec.variant
    assert "went astray" in capsys.readouterr().err
    assert second.validation == searched[one.spec.searched].validation
