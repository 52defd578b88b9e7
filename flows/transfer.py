"""The flow `dept-transfer`: sources, transfer to few-shot targets, evaluation, registration, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow

from dept.backbones.shared import shared_backbone
from dept.baselines.lora import need_peft
from dept.trial import STACKED
from flows.execution import steps
from flows.execution.record import load_adapter
from flows.execution.work import Engine, Workshop
from flows.planning.plan import Plan, check
from flows.planning.trials import Ground, source_specs
from flows.reporting.summary import headline, summary_rows
from infra.errors import InputError
from infra.quiet import errors_told_by_caller
from infra.temporary_server import prefect_api
from registry.ledger.ledger import Ledger
from registry.tracking import Tracker
from tasks.spec import Task


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `trained` counts trials trained now, `reused` those taken from the ledger."""

    report: Path
    run_id: str
    trained: int
    reused: int
    failed: dict[str, str]


def examine(plan: Plan) -> Workshop:
    """Check all that a user may have got wrong, before any training, and open the stores; no run is begun.

    A second time in the same process it costs little: rows and backbone are kept.

    Raises:
        InputError: see `flows.planning.plan.check`, `Backbone.from_pretrained`, `Ledger.open`, `Tracker`.
    """
    tasks, splits = plan.resolve_tasks(), check(plan)
    backbone = shared_backbone(plan.backbone, plan.dtype, plan.device)
    backbone.check_room(plan.adapter.m, plan.adapter.s)
    for name, task in tasks.items():
        try:
            if task.scored:
                backbone.tokens.encode_words(task.words)
        except InputError as error:
            raise InputError(f"task {name}: {error}") from error
    ledger = Ledger.open()
    check_methods(plan, tasks)
    for spec in source_specs(plan, Ground(tasks, splits, backbone.weights_id, backbone.d)):
        row = ledger.get(spec.fingerprint)
        if row is not None and row.status == "finished":  # trained by an earlier run: is its adapter still whole?
            load_adapter(backbone, ledger.outcome(spec.fingerprint))
    engine = Engine(plan.ranks if plan.engine == "deepspeed" else 0, plan.dtype)
    return Workshop(plan, plan.backbone, engine, backbone, tasks, splits, ledger, Tracker())


def check_methods(plan: Plan, tasks: Mapping[str, Task]) -> None:
    """Refuse rivals that cannot be run here, or on these tasks.

    Raises:
        InputError: peft is missing, or a target is answered by generation, which rivals do not do.
    """
    rivals = [method for method in plan.methods if method not in STACKED]
    if "lora" in rivals:
        need_peft()
    written = [name for name in plan.targets if not tasks[name].scored]
    if rivals and written:
        raise InputError(
            f"methods: {rivals[0]} is for tasks whose answers are scored; {written[0]} is answered by generation"
        )


def prepare(plan: Plan) -> Workshop:
    """Examine the plan and open its MLflow run.

    Raises:
        InputError: see `examine`.
    """
    shop = examine(plan)
    shop.parent_run = shop.tracker.open_flow_run(plan.name, plan.model_dump(mode="json"), {"backbone": plan.backbone})
    return shop


@flow(name="dept-transfer")
def dept_transfer(plan: Plan) -> dict[str, Any]:
    """Train adapters on source tasks, start few-shot targets from them, register the best and report.

    Args:
        plan: backbone, source tasks, target tasks, shots, seeds, how adapters start, and the training recipe.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    shop = prepare(plan)
    run_id = shop.parent_run
    with steps.opened(shop):
        sources = steps.train_sources(run_id)
        starts = steps.choose(run_id, sources)
        rates, tried = steps.choose_rates(run_id, starts)
        done = [*sources, *steps.train_targets(run_id, starts, rates)]
        champions = steps.register(run_id, done)
        page = Path(steps.write_report(run_id, [*done, *tried], champions, rates, started))
        totals = {"trained": float(len(shop.trained)), "failed": float(len(shop.failed))}
        gain = headline(summary_rows(steps.outcomes_of(shop, done))).gain
        totals |= {} if gain is None else {"gain_points": gain}
        shop.tracker.close_flow_run(run_id, "FINISHED", totals, steps.plots_beside(page))
    return {
        "report": str(page),
        "run_id": run_id,
        "trained": len(shop.trained),
        "reused": len(set(done) - shop.trained),
        "failed": shop.failed,
    }


def run(plan: Plan) -> RunSummary:
    """Run the flow in this process and say what it did.

    Raises:
        InputError: something that the user can mend.
    """
    examine(plan)  # the flow examines too, since a deployed one starts there; here it must come before the server
    with prefect_api(), errors_told_by_caller():
        done = dept_transfer(plan)
    return RunSummary(**{**done, "report": Path(done["report"])})
