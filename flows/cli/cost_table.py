"""The estimate of a dry run as a table for the terminal."""

from __future__ import annotations

from typing import Any

import typer

from flows.cli.terminal import Column, piped, plain_table, show
from flows.cli.terminal import table as lines_of
from flows.planning.cost import Estimate, Line


def show_estimate(found: Estimate) -> None:
    """The estimate and its notes: a table in a terminal, lines divided by tabs in a pipe."""
    if piped():
        heads = ("Stage", "Variant", "Trials", "Steps", "Numbers", "In all", "Tokens", "Time")
        rows = [(line.stage, line.variant, *_cells(line, found)) for line in found.lines]
        lines_of("", [Column(name) for name in heads], [*rows, ("all", "", *_total(found))])
    else:
        show(table(found))
    for note in found.notes:
        typer.echo(note)


def table(found: Estimate) -> Any:
    """The estimate as a rich table."""
    made = plain_table("Dry run", ("Stage", "Variant"), ("Trials", "Steps", "Numbers", "In all", "Tokens", "Time"))
    for column in made.columns:
        column.no_wrap = True
    for line in found.lines:
        made.add_row(line.stage, line.variant, *_cells(line, found))
    made.add_section()
    made.add_row("all", "", *_total(found))
    return made


def _total(found: Estimate) -> list[str]:
    total = Line("all", "")
    for line in found.lines:
        total.trials, total.steps = total.trials + line.trials, total.steps + line.steps
        total.trained, total.evaluated = total.trained + line.trained, total.evaluated + line.evaluated
        total.bound |= line.bound
        total.numbers += line.numbers
    cells = _cells(total, found)
    cells[2] = ""  # a mean over stages would mislead
    return cells


def _cells(line: Line, found: Estimate) -> list[str]:
    known = [number for number in line.numbers if number is not None]
    whole = len(known) == len(line.numbers)
    most = max(known, default=0)  # no line is left where the ledger holds every trial
    each = f"{'≤ ' if min(known, default=0) < most else ''}{most:,}" if whole else "unknown"
    spent = line.trained + line.evaluated
    tokens = f"{'≤ ' if line.bound else ''}{_short(spent)}" if spent else "–"
    counts = [f"{line.trials:,}", _count(line.steps), each, _count(sum(known)) if whole else "unknown"]
    return [*counts, tokens, _span(found.seconds(line))]


def _count(number: int) -> str:
    return f"{number:,}" if number < 1e6 else _short(number)


def _short(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
