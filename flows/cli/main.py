"""The command line `dept`. Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from flows.cli import tasks as task_commands
from flows.cli.terminal import plain_table, say, show
from infra.errors import InputError, WorkerDiedError

if TYPE_CHECKING:
    from dept.trial import TrialOutcome
    from flows.planning.plan import Plan

FAILED, USAGE, INTERRUPTED = 1, 2, 130
Device = Annotated[str | None, typer.Option(help="cpu, mps, cuda or cuda:N; default: the plan's.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the plan; may be given again."),
]


class _Commands(TyperGroup):
    """Turns errors that a user can mend into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            say(f"[bold red]Error:[/] {escape(' '.join(str(error).split()))}")
            raise typer.Exit(USAGE) from None
        except WorkerDiedError as error:
            say(f"[bold red]Error:[/] {escape(str(error).splitlines()[0])}. The same command goes on from here.")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            say("Interrupted. What was finished is kept: the same command goes on from here.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="dept",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot learning of text tasks by DePT adapters that start from adapters of other tasks.",
)
app.add_typer(task_commands.app, name="tasks")


@app.command()
def run(
    plan: Annotated[str, typer.Argument(help="Name of a shipped plan (demo), or path of a .yaml file.")],
    settings: Settings = None,
    device: Device = None,
    engine: Annotated[str | None, typer.Option(help="local or deepspeed; default: the plan's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and what it costs.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Folder for PLAN.json and PLAN.png: scores with spread, commit, versions.")
    ] = None,
) -> None:
    """Train and compare what PLAN names. Trials that the ledger already holds are not trained again."""
    from flows.planning.plan_file import load_plan, replaced, with_settings

    loaded = with_settings(load_plan(plan), settings or [])
    changes = {name: value for name, value in (("device", device), ("engine", engine)) if value is not None}
    loaded = replaced(loaded, **changes) if changes else loaded
    if dry_run:
        from flows.cli.cost_table import table
        from flows.planning.cost import estimate

        found = estimate(loaded)
        show(table(found))
        for note in found.notes:
            typer.echo(note)
        return

    page = _run(loaded)
    if results is not None:
        from flows.reporting.results import write_results

        for path in write_results(results, loaded, page):
            typer.echo(f"Results: {path}")


@app.command("transfer-matrix")
def transfer_matrix(
    plan: Annotated[str, typer.Argument(help="Plan with sources and targets: a shipped name or a .yaml file.")],
    settings: Settings = None,
    device: Device = None,
) -> None:
    """Start every target of PLAN from every source, and test each source as it is; draw both as a heat map."""
    from flows.planning.plan_file import load_plan, replaced, with_settings
    from flows.reporting.matrix import draw, matrix_plan

    loaded = matrix_plan(with_settings(load_plan(plan), settings or []))
    page = _run(replaced(loaded, device=device) if device else loaded)
    typer.echo(f"Heat map: {draw(page)}")


def _run(plan: Plan) -> Path:
    """Run a plan and say what it did; the report's page."""
    from flows import transfer  # after the plan: a slip in it should not wait for torch and Prefect
    from flows.reporting.html import load_outcomes

    summary = transfer.run(plan)
    _show(load_outcomes(summary.report.parent), summary.report)
    if summary.trained:
        show(f"Trained {summary.trained} trials, took {summary.reused} from the ledger.")
    elif not summary.failed:
        show(
            f"Nothing was trained: the ledger already holds all {summary.reused} trials of this plan "
            "(same backbone, data, recipe and seeds)."
        )
    for label, reason in summary.failed.items():
        say(f"[bold red]Failed:[/] {escape(label)}: {escape(reason)}")
    if summary.failed:
        raise typer.Exit(FAILED)
    return summary.report


@app.command()
def trials(
    task: Annotated[str | None, typer.Option(help="Only trials of this task.")] = None,
    status: Annotated[str | None, typer.Option(help="Only trials in this state.")] = None,
) -> None:
    """List the trials that the ledger remembers."""
    from registry.ledger import Ledger
    from registry.ledger.schema import STATUSES

    if status is not None and status not in STATUSES:
        raise InputError(f"trials: unknown status {status!r}; known: {', '.join(STATUSES)}")
    rows = Ledger.open().find(task=task, status=status)
    if not rows:
        show("No trial yet: `dept run demo` trains some." if task is None and status is None else "No trial fits.")
        return
    table = Table(title=f"{len(rows)} trials", title_justify="left")
    for column in ("Fingerprint", "Trial", "Variant", "Status", "Valid.", "Test"):
        right, folds = column in ("Valid.", "Test"), column in ("Trial", "Variant")
        table.add_column(column, justify="right" if right else "left", overflow="fold" if folds else "ellipsis")
    for row in rows:
        spec, numbers = row.trial_spec, row.outcome or {}
        scores = [_percent(numbers.get(part)) for part in ("validation", "test")]
        table.add_row(row.fingerprint[:12], escape(spec.label), escape(spec.variant), row.status, *scores)
    show(table)
    for row in rows:
        if row.error:
            show(f"[red]{row.fingerprint[:12]}[/] {escape(row.error)}")


@app.command()
def report(
    run_id: Annotated[str | None, typer.Argument(help="Run to show; default: the last one.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the last run (the default).")] = False,
) -> None:
    """Print the table of a run again, and where its page lies."""
    from flows.reporting.html import PAGE, load_outcomes
    from infra.settings import home

    if last and run_id is not None:
        raise InputError("report: give either --last or a run, not both")
    root = home() / "reports"
    folder = _last_report(root) if run_id is None else _named_report(root, run_id)
    _show(load_outcomes(folder), folder / PAGE)


@app.command()
def predict(
    task: Annotated[str, typer.Option(help="Task whose champion answers.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts; without any, the lines of standard input.")] = None,
    backbone: Annotated[str, typer.Option(help="Backbone of the champion.")] = "smollm2-135m",
) -> None:
    """Label TEXT by the champion adapter of a task: one line per text, as answer, probability and text."""
    texts = text or [line.rstrip("\n") for line in _standard_input()]
    if not texts or not all(line.strip() for line in texts):
        raise InputError("predict: a text is empty" if texts else "predict: no text; give some, or pipe lines in")

    from registry.serving import load_champion

    champion = load_champion(task, backbone)
    words = dict(zip(champion.labels, champion.words, strict=True))
    for line, answer in zip(texts, champion.predict(texts).to_dict(orient="records"), strict=True):
        label = answer["label"]
        typer.echo(f"{words[label]}\t{answer[label]:.3f}\t{line}")


@app.command()
def doctor() -> None:
    """Say what is installed, which servers answer, which backbones and data are in reach."""
    from flows.cli.findings import examine

    findings = examine()
    table = plain_table("dept doctor", ("State", "What", "Found, and what to do"))
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[bold red]missing[/]"}
    for finding in findings:
        text = finding.text + (f". Remedy: {finding.remedy}" if finding.remedy else "")
        table.add_row(marks[finding.state], escape(finding.what), escape(text))
    show(table)
    missing = [finding.what for finding in findings if finding.state == "missing"]
    if missing:
        say(f"[bold red]Missing:[/] {escape(', '.join(missing))}")
        raise typer.Exit(1)
    show("Nothing that is needed is missing.")


@app.command()
def retrain(
    backbone: Annotated[str, typer.Option(help="Backbone whose champions to look at.")] = "smollm2-135m",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (may be given again); default: all.")] = None,
    max_age_days: Annotated[float, typer.Option(help="An older champion is stale.")] = 30.0,
    margin: Annotated[float, typer.Option(help="Points of accuracy that a challenger must be better by.")] = 1.0,
) -> None:
    """Look whether champions are stale; train challengers for those that are."""
    from flows.planning.plan_file import validated
    from flows.planning.retraining import Retraining

    order = validated(
        Retraining, "retrain", backbone=backbone, tasks=task or [], max_age_days=max_age_days, margin=margin
    )

    from flows import retrain as flow

    done = flow.run(order)
    for name, reasons in done["stale"].items():
        typer.echo(f"stale: {name} ({'; '.join(reasons)})")
    for decision in done["decisions"]:
        typer.echo(f"{decision['model']}: {decision['decision']}, {decision['reason']}")
    if not done["stale"]:
        fresh = len(done["fresh"])
        typer.echo(
            f"Nothing is stale: {fresh} champions looked at." if fresh else "No champion yet: `dept run` makes one."
        )


@app.command()
def up(
    prefect_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: $PREFECT_PORT or 4200.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: $MLFLOW_PORT or 5000.")] = None,
) -> None:
    """Start the Prefect server, the MLflow server and a worker on this machine, and deploy."""
    from infra import services

    services.up(prefect_port, mlflow_port, say=typer.echo)


@app.command()
def down() -> None:
    """Stop what `dept up` started, and nothing else."""
    from infra import services

    services.down(say=typer.echo)


def main() -> None:
    """Entry point of the console script."""
    app()


def _show(outcomes: list[TrialOutcome], page: Path) -> None:
    from flows.reporting.html import terminal_table

    show(terminal_table(outcomes))
    typer.echo(f"Report: {page}")  # not through rich, which would break a long path


def _last_report(root: Path) -> Path:
    from flows.reporting.html import NUMBERS

    folders = [path.parent for path in root.glob(f"*/{NUMBERS}")]
    if not folders:
        raise InputError(f"report: none in {root} yet; `dept run demo` makes one")
    return max(folders, key=lambda folder: (folder / NUMBERS).stat().st_mtime_ns)


def _named_report(root: Path, run_id: str) -> Path:
    from flows.reporting.html import NUMBERS

    known = sorted(path.parent.name for path in root.glob(f"*/{NUMBERS}"))
    fits = [name for name in known if name == run_id] or [name for name in known if name.startswith(run_id)]
    if len(fits) == 1:
        return root / fits[0]
    said = "several runs begin with" if fits else "no run"
    raise InputError(f"report: {said} {run_id!r}; known: {', '.join(fits or known) or 'none yet'}")


def _percent(scores: dict[str, float] | None) -> str:
    score = (scores or {}).get("score", (scores or {}).get("accuracy"))  # outcomes of old versions hold no score
    return "–" if score is None else f"{score:.1f}"


def _standard_input() -> list[str]:
    if sys.stdin.isatty():
        return []
    try:
        return sys.stdin.readlines()
    except UnicodeDecodeError as error:
        raise InputError("predict: standard input is not UTF-8") from error


if __name__ == "__main__":
    main()
