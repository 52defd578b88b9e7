"""What commands say: results to standard output, everything else to standard error.

A terminal gets tables that fit it; a pipe gets whole values, one line a row, divided by tabs; `--json` gets one
document.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
LOG = logging.getLogger("flows")
BARS = logging.getLogger("flows.progress.bars")  # bars are shown where it lets warnings through
_level: int | None = None
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True)
class Column:
    """A column of a result. `right`: numbers; `whole`: never cut or broken in a terminal."""

    name: str
    right: bool = False
    whole: bool = False


def configure(loudness: int | None = None) -> None:
    """Set how much is said: 1 errors alone, -1 what is done, -2 everything; None: as DEPT_LOG_LEVEL says.

    Raises:
        InputError: DEPT_LOG_LEVEL is no level.
    """
    global _level
    if loudness is None:
        if _level is not None:  # -q or -v was read before
            return
        from infra.settings import settings

        level = LEVELS[settings().log_level]
    else:
        level = logging.ERROR if loudness > 0 else logging.INFO if loudness == -1 else logging.DEBUG
        name = logging.getLevelName(level)
        os.environ["PREFECT_LOGGING_LEVEL"] = os.environ["PREFECT_LOGGING_ROOT_LEVEL"] = name  # read when imported
    _level = level
    BARS.setLevel(level)
    if level < logging.WARNING and not logging.getLogger().handlers:
        logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def reset() -> None:
    """Forget -q and -v (several commands in one process, as in tests)."""
    global _level
    _level = None
    BARS.setLevel(logging.NOTSET)


def level() -> int:
    """The least level of log lines that the terminal shows."""
    return logging.WARNING if _level is None else _level


def quiet() -> bool:
    """Whether only errors and results are wanted."""
    return level() >= logging.ERROR


def piped() -> bool:
    """Whether standard output is no terminal."""
    return not sys.stdout.isatty()


def show(what: Any) -> None:
    """A table or line of a result."""
    if piped() and isinstance(what, str):
        typer.echo(Text.from_markup(what, emoji=False).plain)
        return
    Console(emoji=False).print(what)  # made anew each time: it must follow redirected streams


def width() -> int:
    """Characters in a line of the terminal."""
    return Console().width


def say(line: str) -> None:
    """One line beside the results, with rich's markup; not said with -q."""
    LOG.info("%s", Text.from_markup(line, emoji=False).plain)
    if not quiet():
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(line)


def complain(line: str) -> None:
    """One line about an error, with rich's markup; said always."""
    Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(line)


def tell(line: str) -> None:
    """One line beside the results as it stands, whatever it holds; not said with -q."""
    say(escape(line))


def document(value: Any) -> None:
    """The one JSON document of a command. Numbers that are not finite become null: JSON has none."""
    typer.echo(json.dumps(finite(value), ensure_ascii=False, indent=2, default=str))


def finite(value: Any) -> Any:
    """The value with null for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def table(title: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], styles: Sequence[str] = ()) -> None:
    """Rows as a table in a terminal, as lines divided by tabs in a pipe.

    Args:
        rows: values; None is shown as a dash in a terminal and as nothing in a pipe, a float with one decimal.
        styles: rich styles of the first column's values, by row.
    """
    if piped():
        typer.echo("\t".join(column.name for column in columns))
        for row in rows:
            typer.echo("\t".join(map(cell, row)))
        return
    made = plain_table(title)
    for column in columns:
        made.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=column.right or column.whole,
            overflow="fold",
        )
    for number, row in enumerate(rows):
        cells = [escape("–" if value is None else _shown(value)) for value in row]
        if styles:
            cells[0] = f"[{styles[number]}]{cells[0]}[/]" if styles[number] else cells[0]
        made.add_row(*cells)
    show(made)


def cell(value: Any) -> str:
    """A value in a line that is divided by tabs: whole, with tabs and line ends written as \\t and \\n."""
    text = "" if value is None else _shown(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def plain_table(title: str, left: tuple[str, ...] = (), right: tuple[str, ...] = (), **options: Any) -> Table:
    """A table without lines: columns `left`, then columns of numbers `right`."""
    made = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), **options)
    for name in left:
        made.add_column(name, overflow="fold")
    for name in right:
        made.add_column(name, justify="right", no_wrap=True)
    return made
