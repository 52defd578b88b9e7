"""Every source against every target: the plan of a transfer matrix, and its heat map."""

from __future__ import annotations

from pathlib import Path

from flows.planning.plan import Plan
from flows.planning.plan_file import replaced
from infra.errors import InputError
from infra.files import write_bytes

IMAGE = "transfer-matrix.png"


def matrix_plan(plan: Plan) -> Plan:
    """The plan with each of its sources as a strategy of its own, beside scratch, and tested as it is (zero-shot).

    Raises:
        InputError: a plan without sources.
    """
    if not plan.sources:
        raise InputError(f"plan {plan.name}: a transfer matrix needs sources; name some")
    strategies = ["scratch", *(f"source:{name}" for name in plan.sources)]
    return replaced(plan, name=f"{plan.name}-matrix"[:80], strategies=strategies, methods=["dept"], zero_shot=True)


def draw(report: Path) -> Path:
    """Draw the heat map beside a report that `flows.transfer.run` has written; returns the path of the image."""
    from flows.reporting.html import load_outcomes
    from flows.reporting.matrix_figure import matrix_plot

    image = report.parent / IMAGE
    write_bytes(image, matrix_plot(load_outcomes(report.parent)).light)
    return image
