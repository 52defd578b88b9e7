"""What MLflow's pages of models say: the task, its data and licence, the start, the decision. Markdown."""

from __future__ import annotations

from dept.trial import TrialOutcome, TrialSpec
from registry.ledger.schema import DecisionRow
from registry.tracking.notes import reached, recipe_lines
from tasks.spec import Task

DECISION = "**Decision:**"


def of_model(spec: TrialSpec, task: Task | None) -> str:
    """The page of a task's registered model."""
    lines = [f"**{spec.task}**" + (f": {task.description}" if task and task.description else "")]
    picture = " --picture FILE" if task is not None and task.sees else ""
    if task is not None:
        lines += ["", *data_lines(task)]
    lines += [
        "",
        f"Adapters of the frozen backbone `{spec.backbone}` (weights `{spec.backbone_id[:8]}`). The alias `champion` "
        "names the version that answers, `challenger` the last one that did not replace it.",
        "",
        f'Ask it: `dept predict --task {spec.task}{picture} "..."`, or serve it with `mlflow models serve`.',
    ]
    return "\n".join(lines)


def data_lines(task: Task) -> list[str]:
    """Where a task's rows come from, and under which licence."""
    return [f"- Data: {task.url or 'not told'}", f"- Licence: {task.license}", f"- Citation: {task.citation or 'none'}"]


def of_version(outcome: TrialOutcome) -> str:
    """The page of a version: how the adapter was made and what it reached, percent."""
    trial = f"- Trial: `{outcome.spec.fingerprint[:12]}`"
    return "\n".join([*recipe_lines(outcome.spec), f"- Reached: {reached(outcome)}", trial])


def of_champion(spec: TrialSpec, task: Task | None) -> str:
    """The page of a task's registered model that has a champion."""
    return "\n".join([of_model(spec, task), "", "**Champion:**", "", *recipe_lines(spec)])


def with_decision(description: str, row: DecisionRow) -> str:
    """A description with what was decided last."""
    kept = description.partition(f"\n\n{DECISION}")[0]
    return f"{kept}\n\n{DECISION} {row.decision} on {row.at:%Y-%m-%d %H:%M} UTC: {row.reason}"


def of_all_tasks(backbone: str, backbone_id: str) -> str:
    """The page of the model that answers for every task of a backbone."""
    return (
        f"Every champion on the frozen backbone `{backbone}` (weights `{backbone_id[:8]}`) in one server: a column "
        "`task` names who answers each row, and rows of many tasks run in one batch. New champions answer without a "
        "restart. It holds no adapter: it takes them from this registry."
    )
