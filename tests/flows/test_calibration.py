"""Calibration in a plan: which trials are calibrated how, what their outcomes and reports tell."""

import importlib.util

import pytest

from dept.adapters.adapter import Adapter
from flows import transfer
from flows.execution.settle import work_here
from flows.planning.plan_file import load_plan
from flows.planning.trials import source_specs, target_specs
from flows.reporting.answers import honesty
from flows.reporting.summary import summary_rows

ALONE = {"sources": [], "strategies": ["scratch"], "targets": ["film"]}
METHODS = ["dept", "in-context", "calibrated", *(["lora"] if importlib.util.find_spec("peft") else [])]


def calibrated(plan, context):
    specs = [*source_specs(plan, context.inputs), *target_specs(plan, context.inputs, {})]
    return {spec.variant if spec.role == "target" else "source": spec.calibration for spec in specs}


@pytest.mark.parametrize(
    ("asked", "untrained"), [("choose", "none"), ("none", "none"), ("contextual", "contextual"), ("batch", "none")]
)
def test_an_untrained_adapter_stays_zero_shot(begin, asked, untrained):
    """Content-free inputs are no rows of the task; texts of a draw are."""
    context, plan = begin(**ALONE, calibration=asked)
    assert calibrated(plan, context) == {"untrained": untrained, "scratch": asked}


def test_every_method_is_calibrated_by_one_rule_and_reports_say_how(begin):
    context, plan = begin(**ALONE, methods=METHODS, calibration="contextual")
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    by_variant = {outcome.spec.variant: outcome for outcome in done.outcomes}
    assert set(by_variant) == {"untrained", "scratch", *METHODS} - {"dept"}
    for outcome in by_variant.values():
        assert outcome.extra["readout"]["calibration"] == "contextual"
        assert 0 <= outcome.test["ece"] <= 100
    assert by_variant["calibrated"].steps_done == 0
    assert by_variant["calibrated"].spec.start == "text"  # no shots before the text: that is in-context
    assert by_variant["calibrated"].validation["loss"] > 0
    kept = Adapter.load(context.store.fetch(by_variant["scratch"].adapter_key)).readout
    told = by_variant["scratch"].extra["readout"]
    assert (kept.calibration, kept.temperature) == (told["calibration"], told["temperature"])
    lines = {line.variant: line for line in honesty(summary_rows(done.outcomes))}
    assert lines["scratch"].chosen == "contextual 1"
    assert lines["scratch"].ece == by_variant["scratch"].test["ece"]


def test_another_calibration_is_another_question(make_plan, begin):
    context, plan = begin(**ALONE)
    other = load_plan(make_plan(seeds=[0], **ALONE, calibration="batch"))
    mine, theirs = ({s.variant: s for s in target_specs(p, context.inputs, {})} for p in (plan, other))
    assert mine["scratch"].fingerprint != theirs["scratch"].fingerprint
    assert mine["untrained"].fingerprint == theirs["untrained"].fingerprint
