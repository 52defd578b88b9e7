"""`dept champions`, `dept promote`, `dept rollback`: who answers, and what a person decides about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import stores
from flows.cli.terminal import Column, Json, document, say, table
from infra.errors import InputError

if TYPE_CHECKING:
    from registry.ledger import Ledger
    from registry.ledger.schema import DecisionRow
    from registry.promotion.lookup import Champion
    from registry.promotion.rows import Stores
    from registry.tracking import Tracker

Name = Annotated[str, typer.Argument(metavar="TASK", help="Task whose champion is meant.")]
Where = Annotated[
    str | None, typer.Option(help="Backbone; needed only where the task has champions on several.", metavar="NAME")
]
DAY = 86_400.0


def champions(
    task: Annotated[str | None, typer.Option(help="Only the champions of this task.")] = None, as_json: Json = False
) -> None:
    """List the champions: which adapter answers for a task, since when, and what was decided last.

    Example: dept champions --json
    """
    ledger = stores.ledger()
    found = [] if ledger is None else _facts(ledger, stores.tracker(), task)
    if as_json:
        document({"champions": found})
        return
    if not found:
        say("No champion yet: `dept run demo` makes some." if task is None else f"No champion of {task}.")
        return
    columns = [
        Column("Task", whole=True),
        Column("Backbone"),
        Column("Version", right=True),
        Column("k", right=True),
        Column("Valid.", right=True),
        Column("Days", right=True),
        Column("Last decision"),
    ]
    keys = ("task", "backbone", "version", "shots", "validation", "age_days", "last")
    table(f"{len(found)} champions", columns, [[fact[key] for key in keys] for fact in found])
    for fact in found:
        if fact["note"]:
            say(fact["note"])


def promote(
    task: Name,
    version: Annotated[str | None, typer.Option(help="Version of the registered model.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Fingerprint of a trial, or how it begins.")] = None,
    backbone: Where = None,
) -> None:
    """Let another adapter answer for TASK from now on.

    Example: dept promote movie-polarity --fingerprint 3f9a1c
    """
    if (version is None) == (fingerprint is None):
        raise InputError("promote: give either --version or --fingerprint")
    from registry.promotion import by_hand

    known, weights = _stores(task, backbone, fingerprint)
    _told(by_hand.promote(known, task, weights, version=version, fingerprint=fingerprint))


def rollback(task: Name, backbone: Where = None) -> None:
    """Let the adapter answer for TASK that was champion before the one of today.

    Example: dept rollback movie-polarity
    """
    from registry.promotion import by_hand

    known, weights = _stores(task, backbone)
    _told(by_hand.rollback(known, task, weights))


def _told(row: DecisionRow) -> None:
    typer.echo(f"{row.model}: version {row.challenger_version} answers ({row.reason})")


def _facts(ledger: Ledger, tracker: Tracker | None, task: str | None) -> list[dict[str, Any]]:
    from registry.promotion.lookup import all_champions

    found = [one for one in all_champions(ledger, tracker) if task in (None, one.task)]
    return [_fact(ledger, one) for one in found]


def _fact(ledger: Ledger, one: Champion) -> dict[str, Any]:
    decisions = [row for row in ledger.decisions(task=one.task) if (row.backbone_id or "") == one.backbone_id]
    last = decisions[-1] if decisions else None
    trial = ledger.get(one.fingerprint)
    return {
        "task": one.task,
        "model": one.name,
        "version": one.version,
        "fingerprint": one.fingerprint,
        "trial": trial.trial_spec.label if trial is not None and trial.unreadable is None else None,
        "backbone": one.backbone,
        "backbone_id": one.backbone_id,
        "dtype": one.dtype,
        "shots": "?" if trial is None else "all" if trial.shots is None else trial.shots,
        "validation": one.validation,
        "since": one.since.isoformat(),
        "age_days": (ledger.now() - one.since).total_seconds() / DAY,
        "last": None if last is None else f"{last.decision} {last.at:%F %H:%M}",
        "decision": None if last is None else _decision(last),
        "note": one.note,
    }


def _decision(row: DecisionRow) -> dict[str, Any]:
    names = (
        "decision",
        "reason",
        "by",
        "champion_score",
        "challenger_score",
        "difference",
        "low",
        "high",
        "p",
        "alpha",
    )
    more = ("rows", "rows_hash", "wins", "losses", "margin", "confidence", "needed", "challenger_fingerprint")
    return {name: getattr(row, name) for name in (*names, *more)} | {"at": row.at.isoformat()}


def _stores(task: str, backbone: str | None, fingerprint: str | None = None) -> tuple[Stores, str]:
    """What a decision by hand needs, and the weights that are meant.

    Raises:
        InputError: no ledger, or several backbones to choose from.
    """
    ledger = stores.ledger()
    if ledger is None:
        raise InputError("no ledger yet, so no champion. Remedy: `dept run demo` makes some")
    from flows.execution.champions import stores_of
    from registry.promotion.choose import KINDS
    from registry.promotion.lookup import backbones_of
    from registry.promotion.older import older_backbones, older_champions

    known = stores_of(ledger)
    if backbone is not None:
        from dept.backbones.describe import describe

        return known, describe(backbone).backbone_id
    found = backbones_of(ledger, known.tracker, task) or older_backbones(known.tracker, task)
    if fingerprint is not None and len(found) != 1:
        rows = [row for kind in KINDS for row in ledger.find(task=task, kind=kind, status="finished", outcomes=False)]
        found = {row.backbone_id: row.backbone for row in rows if row.fingerprint.startswith(fingerprint.lower())}
    if not found:
        if older := older_champions(known.tracker, task):
            raise InputError(
                f"the champion of task {task} is of version 0.1.0, and its backbone {older[0].backbone} is not on this "
                "machine. Remedy: --backbone with the folder where it lies now"
            )
        raise InputError(f"task {task} has no champion. Remedy: `dept champions` lists those that there are")
    if len(found) > 1:
        listed = ", ".join(f"{name} ({weights[:8]})" for weights, name in found.items())
        raise InputError(f"task {task} has champions on several backbones: {listed}. Remedy: --backbone")
    return known, next(iter(found))
