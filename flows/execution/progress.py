"""Progress of the long parts: a bar with time left in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 15.0
LOG = logging.getLogger("flows.progress")
BARS = LOG.getChild("bars")


def say(line: str) -> None:
    """A line for people, among the progress."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


class Bar(Protocol):
    """What a long part tells: work done (any unit of its own) and trials finished."""

    def advance(self, amount: float) -> None:
        """So much more is done."""

    def shrink(self, amount: float) -> None:
        """So much less is left, since a trial stopped early."""


class _Shown:
    def __init__(self, progress: Progress, task: object) -> None:
        self.progress, self.task = progress, task

    def advance(self, amount: float) -> None:
        self.progress.advance(self.task, amount)  # type: ignore[arg-type]

    def shrink(self, amount: float) -> None:
        task = self.progress.tasks[0]
        self.progress.update(self.task, total=max(task.completed, (task.total or 0) - amount))  # type: ignore[arg-type]


class _Logged:
    def __init__(self, console: Console, what: str, total: float) -> None:
        self.console, self.what, self.total, self.done = console, what, max(total, 1e-9), 0.0
        self.started = self.told = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.told >= LOG_SECONDS:
            self.told = now
            share = min(1.0, self.done / self.total)
            left = (now - self.started) * (1 - share) / max(share, 1e-9)
            self.console.print(f"{self.what}: {share:.0%}, about {left:.0f} s left")

    def shrink(self, amount: float) -> None:
        self.total = max(self.done, self.total - amount, 1e-9)


@contextmanager
def bar(what: str, total: float) -> Iterator[Bar]:
    """Show `what` while the block runs; `total` is all the work in the caller's unit."""
    console = Console(stderr=True, quiet=not BARS.isEnabledFor(logging.WARNING))  # `dept -q`
    LOG.info("%s begins", what)
    if not console.is_terminal:
        logged = _Logged(console, what, total)
        yield logged
        console.print(f"{what}: done in {time.monotonic() - logged.started:.0f} s")
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Shown(progress, progress.add_task(what, total=total))
