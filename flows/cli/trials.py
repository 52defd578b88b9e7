"""`dept trials`: what the ledger remembers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from flows.cli import stores
from flows.cli.group import command
from flows.cli.terminal import Column, Json, document, piped, say, show, table
from infra.errors import InputError

app = typer.Typer(rich_markup_mode="rich", invoke_without_command=True)


@app.callback(invoke_without_command=True)
@command
def listed(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option(help="Only trials of this task.")] = None,
    status: Annotated[str | None, typer.Option(help="Only trials in this state.")] = None,
    as_json: Json = False,
) -> None:
    """List the trials that the ledger remembers.

    Example: dept trials --status failed
    """
    if ctx.invoked_subcommand is not None:
        return
    from registry.ledger.schema import STATUSES

    if status is not None and status not in STATUSES:
        raise InputError(f"trials: unknown status {status!r}; known: {', '.join(STATUSES)}")
    ledger = stores.ledger()
    rows = [] if ledger is None else ledger.find(task=task, status=status)
    found: list[dict[str, Any]] = []
    for row in rows:
        spec, numbers = row.trial_spec, row.outcome or {}
        found.append(
            {
                "fingerprint": row.fingerprint,
                "trial": spec.label,
                "variant": spec.variant,
                "status": row.status,
                "validation": _percent(numbers.get("validation")),
                "test": _percent(numbers.get("test")),
                "error": row.error,
            }
        )
    if as_json:
        document({"trials": found})
        return
    if not rows:
        say("No trial yet: `dept run demo` trains some." if task is None and status is None else "No trial fits.")
        return
    columns = [Column("Fingerprint", whole=True), Column("Trial"), Column("Variant"), Column("Status", whole=True)]
    columns += [Column("Valid.", right=True), Column("Test", right=True)]
    columns += [Column("Error")] if piped() else []
    keys = ["trial", "variant", "status", "validation", "test"] + (["error"] if piped() else [])
    short = slice(None) if piped() else slice(12)
    table(f"{len(found)} trials", columns, [[line["fingerprint"][short], *map(line.get, keys)] for line in found])
    if not piped():
        for line in found:
            if line["error"]:
                show(f"[red]{line['fingerprint'][:12]}[/] {escape(line['error'])}")


def _percent(scores: dict[str, float] | None) -> float | None:
    return (scores or {}).get("score", (scores or {}).get("accuracy"))  # outcomes of old versions hold no score
