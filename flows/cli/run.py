"""`dept run` and `dept transfer-matrix`: carry a plan out in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.group import FAILED
from flows.cli.terminal import complain, piped, show, tell

if TYPE_CHECKING:
    from flows.planning.plan import Plan

Device = Annotated[str | None, typer.Option(help="cpu, mps, cuda or cuda:N; default: the plan's.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the plan; may be given again."),
]


def run(
    plan: Annotated[str, typer.Argument(help="Name of a shipped plan (demo), or path of a .yaml file.")],
    settings: Changes = None,
    device: Device = None,
    engine: Annotated[str | None, typer.Option(help="local or deepspeed; default: the plan's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and what it costs.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Folder for PLAN.json and PLAN.png: scores with spread, commit, versions.")
    ] = None,
) -> None:
    """Train and compare what PLAN names. Trials that the ledger already holds are not trained again.

    Example: dept run demo --set "shots=[4,16]" --set scratch_training.steps=30
    """
    from flows.planning.plan_file import load_plan, replaced, with_settings

    loaded = with_settings(load_plan(plan), settings or [])
    changes = {name: value for name, value in (("device", device), ("engine", engine)) if value is not None}
    loaded = replaced(loaded, **changes) if changes else loaded
    if dry_run:
        from flows.cli.cost_table import show_estimate
        from flows.cli.stores import ledger
        from flows.planning.cost import estimate

        show_estimate(estimate(loaded, ledger()))
        return

    page = carry_out(loaded)
    if results is not None:
        from flows.reporting.results import write_results

        for path in write_results(results, loaded, page):
            typer.echo(f"Results: {path}")


def transfer_matrix(
    plan: Annotated[str, typer.Argument(help="Plan with sources and targets: a shipped name or a .yaml file.")],
    settings: Changes = None,
    device: Device = None,
) -> None:
    """Start every target of PLAN from every source, and test each source as it is; draw both as a heat map.

    Example: dept transfer-matrix demo --set "seeds=[0]"
    """
    from flows.planning.plan_file import load_plan, replaced, with_settings
    from flows.reporting.matrix import draw, matrix_plan

    loaded = matrix_plan(with_settings(load_plan(plan), settings or []))
    page = carry_out(replaced(loaded, device=device) if device else loaded)
    typer.echo(f"Heat map: {draw(page)}")


def carry_out(plan: Plan) -> Path:
    """Run a plan, say what it did and what may come next; the report's page."""
    if not piped():
        tell(f"Preparing {plan.name}: its tasks, its backbone, the ledger")
    from flows import transfer  # after the plan: a slip in it should not wait for torch and Prefect
    from flows.cli.next_steps import next_steps, runs_page
    from flows.cli.report import show_table
    from flows.cli.run_log import run_log
    from flows.reporting.html import load_outcomes

    with run_log(f"run-{plan.name}", plan.model_dump(mode="json")) as log:
        summary = transfer.run(plan)
    show_table(load_outcomes(summary.report.parent))
    typer.echo(f"Report: {summary.report}")  # not through rich, which would break a long path
    if summary.trained or summary.others:
        others = f"{summary.others} more were trained by other workers; " if summary.others else ""
        show(f"Trained {summary.trained} trials, {others}took {summary.reused} from the ledger.")
    elif not summary.failed:
        show(
            f"Nothing was trained: the ledger already holds all {summary.reused} trials of this plan "
            "(same backbone, data, recipe and seeds)."
        )
    if link := runs_page(summary.run_id):
        tell(f"MLflow: {link}")
    if log.is_file():
        tell(f"Log: {log}")
    for label, reason in summary.failed.items():
        complain(f"[bold red]Failed:[/] {escape(label)}: {escape(reason)}")
    for label, reason in summary.not_run.items():
        complain(f"[bold red]Not run:[/] {escape(label)}: {escape(reason)}")
    if summary.failed:
        tell("Failed trials stay failed: `dept trials retry` lets the next run try them again.")
        raise typer.Exit(FAILED)
    if not piped():
        for line in next_steps(plan):
            tell(line)
    return summary.report
