"""What commands say: results to standard output, everything else to standard error."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def show(what: Any) -> None:
    """A table or line of a result."""
    Console().print(what)  # made anew each time: it must follow redirected streams


def width() -> int:
    """Characters in a line of the terminal."""
    return Console().width


def say(line: str) -> None:
    """One line beside the results, with rich's markup."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def plain_table(title: str, left: tuple[str, ...] = (), right: tuple[str, ...] = (), **options: Any) -> Table:
    """A table without lines: columns `left`, then columns of numbers `right`."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), **options)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
