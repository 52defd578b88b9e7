"""The command line `dept`. Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from flows.cli import (
    bench_peft,
    champions,
    deploy,
    doctor,
    plan,
    predict,
    report,
    retrain,
    run,
    services,
    settings,
    submit,
    tasks,
    terminal,
    trials,
    work,
)
from flows.cli.group import ErrorsTold, command

app = typer.Typer(
    name="dept",
    cls=ErrorsTold,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot learning of text tasks by DePT adapters that start from adapters of other tasks.\n\n"
    "Example: dept run demo",
)
app.command("run")(command(run.run))
app.command("submit")(command(submit.submit))
app.command("transfer-matrix")(command(run.transfer_matrix))
app.command("plan")(command(plan.plan))
app.add_typer(tasks.app, name="tasks")
app.add_typer(trials.app, name="trials")
app.command("report")(command(report.report))
app.command("predict")(command(predict.predict))
app.command("champions")(command(champions.champions))
app.command("promote")(command(champions.promote))
app.command("rollback")(command(champions.rollback))
app.command("retrain")(command(retrain.retrain))
app.command("work")(command(work.work))
app.command("tune")(command(work.tune))
app.command("bench-peft")(command(bench_peft.bench_peft))
app.command("deploy")(command(deploy.deploy))
app.command("up")(command(services.up))
app.command("down")(command(services.down))
app.command("status")(command(services.status))
app.command("doctor")(command(doctor.doctor))
app.command("settings")(command(settings.show_settings))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dept-transfer {importlib.metadata.version('dept-transfer')}")
        raise typer.Exit


@app.callback()
@command
def options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Entry point of the console script."""
    terminal.reset()
    app()


if __name__ == "__main__":
    main()
