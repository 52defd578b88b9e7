"""Which run is meant: by its name, its id, or how its id begins; the one rule of every command that takes a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InputError
from infra.nearest import near
from infra.settings import home

if TYPE_CHECKING:
    from registry.ledger import Ledger

LISTED = 5  # runs that an error names


@dataclass(frozen=True)
class Run:
    """A run that the ledger or a report on this machine knows.

    Attributes:
        run_id: in the ledger; None where the report alone is left.
        page_id: MLflow's, which is also the name of the report's folder; None where there is none.
        name: of its plan. when: when it began, for people.
    """

    run_id: str | None
    page_id: str | None
    name: str
    when: str

    @property
    def ids(self) -> tuple[str, ...]:
        """By which it may be called: the ledger's, then MLflow's."""
        return tuple(one for one in (self.run_id, self.page_id) if one)


def known_runs(ledger: Ledger | None) -> list[Run]:
    """Every run, the newest first; reports whose run the ledger does not know are the last."""
    rows = [] if ledger is None else ledger.runs()
    found = [Run(row.run_id, row.mlflow_run_id, row.name, f"{row.started_at.astimezone():%F %H:%M}") for row in rows]
    known = {one.page_id for one in found}
    folders = sorted(_reports(), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return found + [Run(None, file.parent.name, *_about(file)) for file in folders if file.parent.name not in known]


def find_run(runs: Iterable[Run], asked: str) -> Run:
    """The run that is called so, has this id, or whose id alone begins so.

    Raises:
        InputError: none, or several; they are named.
    """
    known = list(runs)
    for fits in (
        [one for one in known if asked in one.ids],
        [one for one in known if asked == one.name],
        [one for one in known if asked and any(id_.startswith(asked) for id_ in one.ids)],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            what = "are called" if fits[0].name == asked else "begin with"
            raise InputError(f"{len(fits)} runs {what} {asked!r}: {_listed(fits)}. Remedy: more digits of one's id")
    if not known:
        raise InputError(f"no run {asked!r}: there is none yet. Remedy: `dept run demo` begins one")
    hint = near(asked, sorted({one.name for one in known}), list_all=False)
    raise InputError(f"no run {asked!r}{hint or '.'} The last: {_listed(known)}. Remedy: give a name or an id of these")


def _listed(runs: list[Run]) -> str:
    more = f", and {len(runs) - LISTED:,} more" if len(runs) > LISTED else ""
    return ", ".join(f"{one.ids[0][:12]} ({one.name}, {one.when})" for one in runs[:LISTED]) + more


def _reports() -> list[Path]:
    from flows.reporting.numbers import NUMBERS

    return list((home() / "reports").glob(f"*/{NUMBERS}"))


def _about(file: Path) -> tuple[str, str]:
    """Name and beginning of the run of a report."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        begun = str(body["context"].get("started", "?"))[:16].replace("T", " ")
        return str(body["plan"].get("name") or body["title"]), begun
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: its folder still names it
        return file.parent.name, "?"
