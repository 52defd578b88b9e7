"""`dept tasks`: list, show, check and write tasks. Heavy imports stay inside the commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from typer.core import TyperGroup

from flows.cli import stores
from flows.cli.group import command
from flows.cli.terminal import Column, Json, document, piped, plain_table, show, width
from flows.cli.terminal import table as lines_of
from infra.errors import InputError
from infra.nearest import near

if TYPE_CHECKING:
    from tasks.spec import Task
    from tasks.splits import Splits

MOST_ANSWERS = 6  # named in the list; `dept tasks NAME` names all
EXAMPLES = 3
WIDE, FIXED = 120, 66  # characters: from where all columns are shown; of those that are never cut
LONGEST = 1200  # characters of an example's text that are shown


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
    found = [_facts(task) | {"own": own} for task, own in _all_tasks()]
    if as_json:
        document({"tasks": found})
    elif piped():
        heads = ("Task", "Kind", "Train", "Valid.", "Test", "Metrics", "Rows from", "Answers", "License")
        keys = ("name", "kind", "train", "validation", "test", "metrics", "rows_from", "answers", "license")
        rows = [[", ".join(fact[key]) if isinstance(fact[key], tuple) else fact[key] for key in keys] for fact in found]
        lines_of("", [Column(head) for head in heads], rows)
    else:
        _overview_table(found)


def _overview_table(found: list[dict[str, Any]]) -> None:
    """The list as a table of the terminal's width; what is cut or left out, `dept tasks NAME` shows."""
    table = plain_table("Tasks", ("Task", "Kind"), ("Train", "Valid.", "Test"))
    for column in table.columns:
        column.no_wrap = True
    wide = width() >= WIDE
    names = ("Metric", "Rows from", "Answers", "License") if wide else ("Metric", "Rows from")
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=(width() - FIXED) // len(names))
    for fact in found:
        rows = ["–" if fact[part] is None else f"{fact[part]:,}" for part in ("train", "validation", "test")]
        answers = _few(fact["answers"], fact["answers_in_all"])
        license_ = re.split(r" \(|;", fact["license"])[0]  # in full: dept tasks NAME
        about = (", ".join(fact["metrics"]), fact["rows_from"], answers, license_)[: len(names)]
        table.add_row(fact["name"], fact["kind"], *rows, *map(escape, about))
    show(table)
    if any(fact["train"] is None for fact in found):
        show("–: rows that are not on this machine; `dept tasks NAME` says how to reach them.")


def _facts(task: Task) -> dict[str, Any]:
    """A task in a line: splits are None where the rows are not on this machine."""
    from flows.planning.reach import in_reach
    from tasks.load import load_splits

    splits = load_splits(task) if in_reach(task) else None
    return {
        "name": task.name,
        "kind": task.kind,
        "train": None if splits is None else len(splits.train),
        "validation": None if splits is None else len(splits.validation),
        "test": None if splits is None else len(splits.test),
        "metrics": task.metrics,
        "rows_from": _origin(task),
        "answers": tuple(task.words) if task.strata > 1 else (_answers(task),),
        "answers_in_all": len(task.words),
        "license": task.license,
    }


def _few(answers: Sequence[str], in_all: int) -> str:
    more = f", … {in_all} in all" if len(answers) > MOST_ANSWERS else ""
    return ", ".join(answers[: MOST_ANSWERS if more else None]) + more


@app.command("show")
@command
def show_one(name: Annotated[str, typer.Argument(help="Task of the catalogue.")], as_json: Json = False) -> None:
    """Show one task: its block, the sizes of its splits, three examples. Short: dept tasks NAME.

    Example: dept tasks movie-polarity
    """
    import yaml

    from flows.planning.reach import in_reach
    from tasks.load import load_splits
    from tasks.spec import HubSource

    task = _task(name)
    if as_json:
        document({**_facts(task), "block": task.block()})
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
    tokens: Annotated[
        int | None, typer.Option(min=2, help="The adapter's s: text and answer; default: the plan's.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Count tokens with this backbone's tokenizer.")] = None,
) -> None:
    """Hold a task against its real rows, and show three examples as the backbone will read them.

    Example: dept tasks check mine.yaml --backbone smollm2-135m
    """
    from flows.planning.check_task import check_task, named, planned_s

    for task in named(what):
        found = check_task(task, tokens or planned_s(what, task), backbone)
        typer.echo(f"{task.name}: {task.kind}, {', '.join(task.metrics)}, rows from {_origin(task)}")
        for line in found.lines:
            typer.echo(f"  {line}")
        for line in found.warnings:
            typer.echo(f"  note: {line}")
        show_examples(task, found.splits)
        typer.echo(f"\n{task.name}: good to use.")


@app.command()
@command
def new(
    source: Annotated[
        str, typer.Argument(help="A csv, jsonl or parquet file, a folder of save_to_disk, or owner/name of the hub.")
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
    out: Annotated[Path | None, typer.Option(help="Write the block here, not to standard output.")] = None,
) -> None:
    """Look at data and write the YAML block of a task on it, for `own_tasks:` of a plan.

    Example: dept tasks new reviews.csv --out mine.yaml
    """
    from flows.planning.new_task import new_block

    block = new_block(source, tuple(text or ()), label, kind, name, config, revision, out, validation, test)
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
    import tempfile

    from flows.planning.check_task import named
    from registry.ledger import Ledger
    from registry.store import Store
    from tasks.catalogue import catalogue
    from tasks.load import load_splits
    from tasks.rows_file import write_rows

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"tasks add: {file}: give a .yaml file of tasks or a plan")
    found = named(str(file))
    shipped = catalogue()
    taken = [task.name for task in found if task.name in shipped]
    if taken:
        raise InputError(f"tasks add: the catalogue already has a task {taken[0]}; choose another name")
    splits = {task.name: load_splits(task) for task in found}  # all are read before anything is kept
    ledger, store, rows = Ledger.open(), Store.open(), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="dept-") as folder:
        for task in found:
            path = Path(folder) / "rows"
            rows[task.name] = write_rows(task, splits[task.name], path)
            key = f"rows/{rows[task.name]}"
            if not store.exists(key):
                store.put_file(path, key)
    ledger.remember_tasks({task.name: task.model_dump(mode="json") for task in found}, rows)
    for task in found:
        typer.echo(f"Added: {task.name} ({sizes(splits[task.name])})")


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


def _all_tasks() -> list[tuple[Task, bool]]:
    """The catalogue, then the tasks that the ledger remembers; and whether a task is the user's own."""
    from pydantic import ValidationError

    from tasks.catalogue import catalogue
    from tasks.spec import Task

    found = [(task, False) for task in catalogue().values()]
    ledger = stores.ledger()
    for name, row in ({} if ledger is None else ledger.own_tasks()).items():
        try:
            found.append((Task.model_validate({**row.block, "name": name}), True))
        except ValidationError:  # of another version: the plan that names the task brings it anew
            continue
    return found


def _task(name: str) -> Task:
    found = {task.name: task for task, _ in _all_tasks()}
    if name not in found:
        raise InputError(f"unknown task {name!r}{near(name, found)}")
    return found[name]


def sizes(splits: Splits) -> str:
    """Rows of the three splits, in words."""
    return f"{len(splits.train):,} train, {len(splits.validation):,} validation, {len(splits.test):,} test"


def show_examples(task: Task, splits: Splits) -> None:
    """Three training rows, of different classes where there are some: text, label, target."""
    first = {row.label: row for row in reversed(splits.train)}
    picked = [*first.values()][:EXAMPLES] if task.strata > 1 else []
    picked += [row for row in splits.train if row not in picked][: EXAMPLES - len(picked)]
    for row in picked:
        label = f"{task.labels[row.label]} " if task.strata > 1 else ""
        text = row.text if len(row.text) <= LONGEST else f"{row.text[: LONGEST // 2]} […] {row.text[-LONGEST // 2 :]}"
        typer.echo(f"\n--- {label}(answer: {row.target!r})\n{text}")


def _answers(task: Task) -> str:
    return f"{task.words[0]} to {task.words[-1]}" if task.scored else "text"


def _origin(task: Task) -> str:
    source = task.source
    if source.kind == "hub":
        return f"hub {source.repo}" + (f" {source.config}" if source.config else "")
    return f"package {source.package}" if source.kind == "package" else f"file {source.path}"
