"""A task in a line, the list of tasks, and examples of one, for `dept tasks`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from flows.cli.terminal import plain_table, quiet, show, width
from flows.planning.reach import in_reach
from infra.errors import InputError
from tasks.catalogue import catalogue
from tasks.load import load_splits

if TYPE_CHECKING:
    from tasks.spec import Task
    from tasks.splits import Splits

MOST_ANSWERS = 6  # named in the list; `dept tasks NAME` names all
EXAMPLES = 3
WIDE, FIXED = 120, 66  # characters: from where all columns are shown; of those that are never cut
LONGEST = 1200  # characters of an example's text that are shown


def overview_table(found: list[dict[str, Any]]) -> None:
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


def facts(task: Task) -> dict[str, Any]:
    """A task in a line: splits are None where the rows are not on this machine."""
    return _known(task, load_splits(_shown(task)) if in_reach(task) else None)


def _shown(task: Task) -> Task:
    """The task of the catalogue that shows the pictures which this one hides: of the same rows, which are read once."""
    if task.pictured and not task.sees:
        apart = {"name": task.name, "description": task.description, "picture": task.picture}
        same = [other for other in catalogue().values() if other.sees and other.model_copy(update=apart) == task]
        return same[0] if same else task
    return task


def _known(task: Task, splits: Splits | None) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": task.kind,
        "train": None if splits is None else len(splits.train),
        "validation": None if splits is None else len(splits.validation),
        "test": None if splits is None else len(splits.test),
        "metrics": task.metrics,
        "pictures": "shown" if task.sees else "hidden" if task.pictured else None,
        "rows_from": origin(task),
        "answers": tuple(task.words) if task.strata > 1 else (_answers(task),),
        "answers_in_all": len(task.words),
        "license": task.license,
    }


def facts_or_reason(task: Task) -> dict[str, Any]:
    """`facts`, with `reason`: None, or why the rows cannot be read; the splits are None then."""
    try:
        return facts(task) | {"reason": None}
    except InputError as error:
        return _known(task, None) | {"reason": str(error)}


def _few(answers: Sequence[str], in_all: int) -> str:
    more = f", … {in_all} in all" if len(answers) > MOST_ANSWERS else ""
    return ", ".join(answers[: MOST_ANSWERS if more else None]) + more


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
        seen = f"[picture {row.picture.path}{'' if task.sees else ', hidden'}]\n" if row.picture else ""
        typer.echo(f"\n--- {label}(answer: {row.target!r})\n{seen}{text}")


@contextlib.contextmanager
def watched(total: int) -> Iterator[Callable[[], None]]:
    """A bar for `total` pictures while they are read, on standard error where that is a terminal."""
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=console, transient=True, disable=quiet()) as progress:
        task = progress.add_task(f"reading {total:,} pictures", total=total, visible=console.is_terminal)
        yield lambda: progress.advance(task)


def _answers(task: Task) -> str:
    return f"{task.words[0]} to {task.words[-1]}" if task.scored else "text"


def origin(task: Task) -> str:
    """Where the rows come from, in words."""
    source, seen = task.source, ", with pictures" if task.sees else ", pictures hidden" if task.pictured else ""
    if source.kind == "hub":
        return f"hub {source.repo}" + (f" {source.config}" if source.config else "") + seen
    return (f"package {source.package}" if source.kind == "package" else f"file {source.path}") + seen
