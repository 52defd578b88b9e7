"""Progress of the long parts: a bar with time left in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

from dept.trial import TrialSpec
from infra.flow_run import own_id
from infra.progress_page import ProgressPage
from registry.ledger import Claim

LOG_SECONDS = 15.0
NAMED = 3  # tasks that a name of a stack holds
LOG = logging.getLogger("flows.progress")
BARS = LOG.getChild("bars")


def say(line: str) -> None:
    """A line for people, among the progress."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


def stack_name(claims: Sequence[Claim]) -> str:
    """What a group of trials is, in a few words: 12 targets, 4 probes: film, plot."""
    counts = Counter(_word(claim.spec) for claim in claims)
    tasks = list(dict.fromkeys(claim.spec.task for claim in claims))
    more = f" and {len(tasks) - NAMED} more" if len(tasks) > NAMED else ""
    what = ", ".join(f"{number} {word if number == 1 else f'{word}s'}" for word, number in counts.items())
    return f"{what}: {', '.join(tasks[:NAMED])}{more}"


def _word(spec: TrialSpec) -> str:
    if spec.kind != "train":
        return {"search": "search of recipe", "evaluate": "evaluation"}.get(spec.kind, spec.kind)
    return {"search": "rate trial"}.get(spec.role, spec.role)


class Bar(Protocol):
    """What a long part tells: work done (any unit of its own), trials finished, the loss as it is now."""

    def advance(self, amount: float) -> None:
        """So much more is done."""

    def shrink(self, amount: float) -> None:
        """So much less is left, since a trial stopped early."""

    def restore(self, amount: float) -> None:
        """So much was done by a process before this one; it tells nothing of the speed."""

    def note(self, **numbers: float) -> None:
        """Numbers that people want to see beside it, such as loss=0.5."""


class _Counted:
    """What was told, for a bar in a terminal or a log, and for the page of the flow run."""

    def __init__(self, total: float, unit: str) -> None:
        self.total, self.unit = max(total, 1e-9), unit
        self.done = self.before = 0.0
        self.started = time.monotonic()
        self.numbers: dict[str, float] = {}

    def advance(self, amount: float) -> None:
        self.done += amount

    def shrink(self, amount: float) -> None:
        self.total = max(self.done, self.total - amount, 1e-9)

    def restore(self, amount: float) -> None:
        self.before += amount
        self.advance(amount)

    def note(self, **numbers: float) -> None:
        self.numbers |= numbers

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total)

    def line(self) -> str:
        """Speed, numbers, time left."""
        seconds = time.monotonic() - self.started
        rate = (self.done - self.before) / max(seconds, 1e-9)  # what a process before this one did tells nothing
        parts = [f"{self.done:,.0f} {self.unit}, {rate:,.0f} {self.unit}/s"] if self.unit else []
        parts += [f"{name} {value:.3g}" for name, value in self.numbers.items()]
        if self.share == 1:
            parts.append(f"{seconds:.0f} s")
        elif self.done > self.before:
            left = (self.total - self.done) * seconds / (self.done - self.before)
            parts.append(f"about {left:.0f} s left")
        return ", ".join(parts) or "begins"


class _Shown(_Counted):
    """In a terminal."""

    def __init__(self, progress: Progress, what: str, total: float, unit: str) -> None:
        super().__init__(total, unit)
        self.progress, self.task = progress, progress.add_task(what, total=total)

    def advance(self, amount: float) -> None:
        super().advance(amount)
        self.progress.advance(self.task, amount)

    def shrink(self, amount: float) -> None:
        super().shrink(amount)
        self.progress.update(self.task, total=self.total)


class _Logged(_Counted):
    """In a log: a line now and then."""

    def __init__(self, console: Console, what: str, total: float, unit: str) -> None:
        super().__init__(total, unit)
        self.console, self.what, self.told = console, what, self.started

    def advance(self, amount: float) -> None:
        super().advance(amount)
        now = time.monotonic()
        if now - self.told >= LOG_SECONDS:
            self.told = now
            self.console.print(f"{self.what}: {self.share:.0%}, {self.line()}")


@contextmanager
def bar(what: str, total: float, unit: str = "") -> Iterator[Bar]:
    """Show `what` while the block runs, on the page of its flow run, too, where there is one.

    Args:
        total: all the work in the caller's unit.
        unit: its name, where the speed is worth telling: tokens.
    """
    console = Console(stderr=True, quiet=not BARS.isEnabledFor(logging.WARNING))  # `dept -q`
    LOG.info("%s begins", what)
    if not console.is_terminal:
        logged = _Logged(console, what, total, unit)
        with _on_page(what, logged):
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
        shown = _Shown(progress, what, total, unit)
        with _on_page(what, shown):
            yield shown


def _on_page(what: str, counted: _Counted) -> AbstractContextManager[None]:
    if own_id() is None:
        return nullcontext()
    return ProgressPage(what, lambda: (100 * counted.share, counted.line())).kept()
