"""A refit whose training became unstable is seen by its own rows, and trained again at half the rates."""

import math
from dataclasses import replace

import pytest
from sqlalchemy import update

from dept.trial import OWN_LOSS
from flows import transfer
from flows.execution.settle import work_here
from flows.planning.astray import astray, steadied
from flows.planning.cost import estimate
from flows.reporting.searched import told_searches
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
    assert steadied([one], lost, {}).outcomes == [one]
    better, worse = (type(one)(**{**vars(one), "spec": slower, "extra": {OWN_LOSS: loss}}) for loss in (1.0, 100.0))
    chosen = replace(one, spec=one.spec.model_copy(update={"init": "auto"}))  # what is shown beside auto, and auto
    kept = steadied([one, chosen], lost, {slower.fingerprint: better})
    assert [o.spec.init for o in kept.outcomes] == ["scratch", "auto"]
    assert {o.spec.fingerprint for o in kept.outcomes} == {slower.fingerprint}
    assert {o.extra[OWN_LOSS] for o in kept.outcomes} == {1.0}
    assert list(kept.instead) == [key]
    assert [o.extra[OWN_LOSS] for o in kept.left] == [99.0]
    assert list(kept.notes) == [one.spec.searched]
    same = steadied([one, chosen], lost, {slower.fingerprint: worse})
    assert same.outcomes == [one, chosen]
    assert (same.instead, [o.extra[OWN_LOSS] for o in same.left]) == ({}, [100.0])
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
    assert estimate(plan, context.ledger).lines == []  # a dry run knows of both
    lines = told_searches(plan, done.searches, done.searched, done.astray)
    assert [line["why"] for line in lines if line["for"] == "scratch"] == [
        "scratch went astray and was trained again; kept: at half the rates"
    ]
    assert {o.spec.fingerprint for o in done.tried} >= {searched[one.spec.searched].spec.fingerprint}
    assert [o.extra[OWN_LOSS] for o in done.tried if o.spec.kind == "train"] == [99.0]


def test_one_that_fails_when_it_is_trained_again_changes_nothing(refit, monkeypatch, capsys):
    one, _, context, plan = refit
    monkeypatch.setattr("flows.transfer.astray", lambda targets, searched: {one.spec.fingerprint: lost})
    lost = one.spec.model_copy(update={"training": one.spec.training.model_copy(update={"max_loss": 1e-9})})
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    assert "What was trained first stays" in capsys.readouterr().err
    (same,) = [outcome for outcome in done.outcomes if outcome.spec.refit and outcome.spec.method == "dept"]
    assert same.spec.fingerprint == one.spec.fingerprint
