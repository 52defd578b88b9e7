"""`dept tasks`: list, show, check and write tasks. Heavy imports stay inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from typer.core import TyperGroup

from flows.cli import stores
from flows.cli.group import command
from flows.cli.terminal import Column, Json, complain, document, piped
from flows.cli.terminal import table as lines_of
from infra.errors import InputError
from infra.nearest import near

if TYPE_CHECKING:
    from tasks.spec import Task


MOST_FAULTS = 10  # pictures that cannot be read: how many are named


class _NamesToo(TyperGroup):
    """`dept tasks NAME` is short for `dept tasks show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_NamesToo, rich_markup_mode="rich", invoke_without_command=True)


@app.callback(invoke_without_command=True)
@command
def overview(ctx: typer.Context, as_json: Json = False) -> None:
    """List the tasks of the catalogue and your own; `dept tasks NAME` shows one with examples.

    Example: dept tasks --json
    """
    if ctx.invoked_subcommand is not None:
        return
    from flows.cli.task_lines import facts_or_reason, overview_table
    from tasks.catalogue import catalogue

    shipped = catalogue()
    found = [facts_or_reason(task) | {"own": task.name not in shipped} for task in _all_tasks().values()]
    for fact in found:
        if fact["reason"]:
            complain(escape(f"{fact['name']}: {fact['reason']}"))
    if as_json:
        document({"tasks": found})
    elif piped():
        heads = ("Task", "Kind", "Train", "Valid.", "Test", "Metrics", "Rows from", "Answers", "License")
        keys = ("name", "kind", "train", "validation", "test", "metrics", "rows_from", "answers", "license")
        rows = [[", ".join(fact[key]) if isinstance(fact[key], tuple) else fact[key] for key in keys] for fact in found]
        lines_of("", [Column(head) for head in heads], rows)
    else:
        overview_table(found)


@app.command("show")
@command
def show_one(name: Annotated[str, typer.Argument(help="Task of the catalogue.")], as_json: Json = False) -> None:
    """Show one task: its block, the sizes of its splits, three examples. Short: dept tasks NAME.

    Example: dept tasks movie-polarity
    """
    import yaml

    from flows.cli.task_lines import facts, show_examples, sizes
    from flows.planning.reach import in_reach
    from tasks.load import load_splits
    from tasks.spec import HubSource

    task = known_task(name)
    if as_json:
        document({**facts(task), "block": task.block()})
        return
    typer.echo(yaml.safe_dump({task.name: task.block()}, sort_keys=False, allow_unicode=True, width=100))
    try:
        splits = load_splits(task)
    except InputError as error:
        if not isinstance(task.source, HubSource) or in_reach(task):
            raise
        typer.echo(f"Rows: not in reach. {error}")
        return
    dropped = ", ".join(f"{number:,} {cause}" for cause, number in splits.dropped.items() if number)
    typer.echo(f"Rows: {sizes(splits)} ({dropped or 'none'} left out)")
    show_examples(task, splits)


@app.command()
@command
def check(
    what: Annotated[str, typer.Argument(help="NAME of the catalogue, FILE.yaml of tasks or own_tasks, or PLAN:NAME.")],
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="PLAN", help="Plan whose backbone, s and words count; default: the one that FILE or PLAN:NAME is."
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="The adapter's s: text and answer; default: the plan's.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Count tokens with its tokenizer; default: the plan's, without a plan words.")
    ] = None,
) -> None:
    """Hold a task against its real rows, and show three examples as the backbone will read them.

    Example: dept tasks check mine.yaml --backbone smollm2-135m
    """
    from flows.cli.task_lines import origin, show_examples
    from flows.planning.check_task import check_task, named
    from flows.planning.planned import planned

    for task in named(what, plan):
        by_plan = planned(what, task.name, plan)
        task = task.with_verbalizer(by_plan.words)
        found = check_task(task, tokens or by_plan.s, backbone or by_plan.backbone)
        if by_plan.note and backbone is None:
            found.warnings.append(f"{by_plan.note}. Remedy: --backbone NAME")
        typer.echo(f"{task.name}: {task.kind}, {', '.join(task.metrics)}, rows from {origin(task)}")
        for line in found.lines:
            typer.echo(f"  {line}")
        for line in found.warnings:
            typer.echo(f"  note: {line}")
        show_examples(task, found.splits)
        verdict = "readable, but most of its text is cut away: see the notes" if found.lost else "good to use"
        typer.echo(f"\n{task.name}: {verdict}.")


@app.command()
@command
def new(
    source: Annotated[
        str,
        typer.Argument(
            help="A csv, jsonl or parquet file, a folder of pictures with a csv, one of save_to_disk, or owner/name of "
            "the hub."
        ),
    ],
    text: Annotated[list[str] | None, typer.Option(help="Column of the text (again for a second one).")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label, number or answer.")] = None,
    kind: Annotated[
        Literal["classification", "regression", "qa", "generation"] | None, typer.Option(help="Default: guessed.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the task; default: of the file.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the hub data set.")] = None,
    revision: Annotated[str, typer.Option(help="Revision of the hub data set.")] = "main",
    validation: Annotated[Path | None, typer.Option(help="File of the validation rows, if SOURCE has none.")] = None,
    test: Annotated[Path | None, typer.Option(help="File of the test rows, if SOURCE has none.")] = None,
    picture: Annotated[str | None, typer.Option(help="Column that names a picture's file; default: guessed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the block here, not to standard output.")] = None,
) -> None:
    """Look at data and write the YAML block of a task on it, for `own_tasks:` of a plan. Every picture is read once.

    Example: dept tasks new reviews.csv --out mine.yaml
    """
    from flows.cli.task_lines import watched
    from flows.planning.new_task import new_block
    from flows.planning.picture_folder import BadPicturesError

    columns = (tuple(text or ()), label, kind, name, config, revision, out, validation, test, picture)
    try:
        block = new_block(source, *columns, watch=watched)
    except BadPicturesError as error:
        for line in error.lines[:MOST_FAULTS]:
            complain(escape(line))
        if (more := len(error.lines) - MOST_FAULTS) > 0:
            complain(f"… and {more:,} more")
        raise
    if out is None:
        typer.echo(block, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(block)
    except FileExistsError as error:
        raise InputError(f"tasks new: {out} is already there; take it away, or give --out another name") from error
    except OSError as error:
        raise InputError(f"tasks new: {out} cannot be written ({error.strerror})") from error
    typer.echo(f"Written: {out}. Look it over, then: dept tasks check {out}")


@app.command()
@command
def add(
    file: Annotated[Path, typer.Argument(help="FILE.yaml of tasks, or a plan with own_tasks.")],
) -> None:
    """Make your own tasks known outside their plan: to predict, retrain and `dept tasks`. Their rows go to the store.

    Example: dept tasks add mine.yaml
    """
    from flows.cli.task_lines import sizes
    from flows.execution.own_tasks import keep_tasks
    from flows.planning.check_task import named
    from registry.ledger import Ledger
    from registry.store import Store
    from tasks.catalogue import catalogue
    from tasks.load import load_splits

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"tasks add: {file}: give a .yaml file of tasks or a plan")
    found = named(str(file))
    shipped = catalogue()
    taken = [task.name for task in found if task.name in shipped]
    if taken:
        raise InputError(f"tasks add: the catalogue already has a task {taken[0]}; choose another name")
    keep_tasks(found, Ledger.open(), Store.open())
    for task in found:
        typer.echo(f"Added: {task.name} ({sizes(load_splits(task))})")


@app.command()
@command
def forget(names: Annotated[list[str], typer.Argument(help="Own tasks.")]) -> None:
    """Forget own tasks; their trials and champions stay.

    Example: dept tasks forget mine
    """
    ledger = stores.ledger()
    known = {} if ledger is None else ledger.own_tasks()
    unknown = [name for name in names if name not in known]
    if ledger is None or unknown:
        raise InputError(f"tasks forget: no own task {(unknown or names)[0]!r}{near((unknown or names)[0], known)}")
    ledger.forget_tasks(names)
    typer.echo(f"Forgotten: {', '.join(names)}")


def _all_tasks() -> dict[str, Task]:
    """The catalogue, and the tasks that the ledger remembers; no ledger is made."""
    from flows.execution.own_tasks import known_tasks
    from tasks.catalogue import catalogue

    ledger = stores.ledger()
    return catalogue() if ledger is None else known_tasks(ledger)


def known_task(name: str) -> Task:
    """A task of the catalogue or of the ledger.

    Raises:
        InputError: there is none of this name.
    """
    found = _all_tasks()
    if name not in found:
        raise InputError(f"unknown task {name!r}{near(name, found)}")
    return found[name]
