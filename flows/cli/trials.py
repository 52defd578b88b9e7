"""`dept trials`: what the ledger remembers, and what may be done about failed trials."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape

from flows.cli import stores
from flows.cli.group import command
from flows.cli.terminal import Column, Json, document, piped, say, show, table
from infra.errors import InputError
from infra.nearest import near

if TYPE_CHECKING:
    from registry.ledger import Ledger
    from registry.ledger.schema import TrialRow

LISTED = 1000  # rows that are shown unless more are asked for
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
Which = Annotated[list[str], typer.Argument(metavar="FINGERPRINT", help="Fingerprints, or how they begin.")]

app = typer.Typer(rich_markup_mode="rich", invoke_without_command=True)


@app.callback(invoke_without_command=True)
@command
def listed(
    ctx: typer.Context,
    run: Annotated[
        str | None, typer.Option(help="Only trials of this run: its name, its id, or how that begins.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only trials of this task.")] = None,
    status: Annotated[str | None, typer.Option(help="pending, running, trained, finished or failed.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, probe, mixture, search or evaluate.")] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: 30m, 12h, 7d, or 2026-11-25[T10:00].")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10**9, help="The newest so many.")] = LISTED,
    as_json: Json = False,
) -> None:
    """List the trials that the ledger remembers, the oldest first.

    Example: dept trials --status failed --since 12h
    """
    if ctx.invoked_subcommand is not None:
        return
    from dept.trial import Kind
    from registry.ledger.schema import STATUSES

    _known("status", status, STATUSES)
    _known("kind", kind, get_args(Kind))
    moment = None if since is None else _moment(since)
    ledger = stores.ledger()
    rows = []
    if ledger is not None:
        run_id = None if run is None else run_id_of(ledger, run)
        rows = ledger.find(task, status=status, kind=kind, run_id=run_id, since=moment, limit=limit, newest_first=True)[
            ::-1
        ]
    elif run is not None:
        raise InputError(f"trials: no run {run!r}: the ledger is empty. Remedy: `dept run demo` begins one")
    found = [facts(row) for row in rows]
    if as_json:
        document({"trials": found})
        return
    if not rows:
        asked = any(value is not None for value in (run, task, status, kind, since))
        say("No trial fits." if asked else "No trial yet: `dept run demo` trains some.")
        return
    _show_all(found)
    if len(rows) == limit:
        say(f"The newest {limit:,}; more with --limit.")


@app.command("show")
@command
def show_one(
    fingerprint: Annotated[str, typer.Argument(help="Fingerprint, or how it begins.")], as_json: Json = False
) -> None:
    """Show all that is known of one trial: its question, its numbers, what it ran on.

    Example: dept trials show 3f9a1c
    """
    ledger = _ledger()
    row = ledger.get(_resolved(ledger, [fingerprint])[0])
    assert row is not None
    body = facts(row) | {
        "spec": row.spec,
        "outcome": row.outcome,
        "provenance": row.provenance,
        "adapter": row.adapter_key,
        "adapter_sha256": row.adapter_sha256,
        "mlflow_run_id": row.mlflow_run_id,
    }
    if as_json:
        document(body)
        return
    import yaml

    from flows.cli.terminal import finite

    plain = {key: str(value) if isinstance(value, datetime) else finite(value) for key, value in body.items()}
    outcome = plain.get("outcome")
    if isinstance(outcome, dict):  # curves have a line a step: --json has them
        plain["outcome"] = {key: value for key, value in outcome.items() if not key.endswith("_curve")}
    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), nl=False)


@app.command()
@command
def retry(
    fingerprints: Annotated[list[str] | None, typer.Argument(metavar="[FINGERPRINT]...", help="Failed trials.")] = None,
    run: Annotated[
        str | None, typer.Option(help="All failed trials of this run (name, id, or how that begins).")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed trials.")] = False,
) -> None:
    """Let failed trials be tried again: the next `dept run` or worker takes them.

    Example: dept trials retry --all
    """
    if sum((bool(fingerprints), run is not None, every)) != 1:
        raise InputError("trials retry: give fingerprints, --run or --all")
    ledger = _ledger()
    if fingerprints:
        number = ledger.retry(_resolved(ledger, fingerprints))
    else:
        number = ledger.retry(run_id=None if run is None else run_id_of(ledger, run))
    typer.echo(f"{_trials(number)} will be tried again: `dept run` of the plan, or a worker, takes them.")


@app.command()
@command
def forget(
    fingerprints: Which,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also trials whose adapters are champions.")] = False,
) -> None:
    """Delete trials from the ledger; a plan that asks for them trains them anew.

    Example: dept trials forget 3f9a1c --yes
    """
    ledger = _ledger()
    wanted = _resolved(ledger, fingerprints)
    answering = _answering(ledger, wanted)
    if answering and not force:
        listed = "; ".join(f"{key[:12]} is the champion of {task}" for key, task in answering.items())
        raise InputError(f"trials forget: {listed}. Remedy: `dept rollback` first, or --force (MLflow keeps a copy)")
    for row in map(ledger.get, wanted):
        if row is not None:
            what = f", the champion of {escape(row.task)}" if row.fingerprint in answering else ""
            say(f"{row.fingerprint[:12]} {escape(_label(row))}, {row.status}{what}")
    if not yes and not typer.confirm(f"Forget {_trials(len(wanted))}?", err=True):
        raise typer.Exit(1)
    ledger.forget(wanted)
    typer.echo(f"Forgotten: {_trials(len(wanted))}. Their adapters stay in the store.")


def _answering(ledger: Ledger, fingerprints: Sequence[str]) -> dict[str, str]:
    """The trials whose adapters answer for a task: fingerprint -> task."""
    from registry.promotion.lookup import all_champions

    tracker = stores.tracker()
    found = {one.fingerprint: one.task for one in all_champions(ledger, tracker)}
    return {key: found[key] for key in fingerprints if key in found}


def facts(row: TrialRow) -> dict[str, Any]:
    """A trial in a line, as plain data. Scores are percent."""
    numbers = row.outcome or {}
    return {
        "fingerprint": row.fingerprint,
        "trial": _label(row),
        "kind": row.kind,
        "variant": "" if row.unreadable else row.trial_spec.variant,
        "status": row.status,
        "validation": _percent(numbers.get("validation")),
        "test": _percent(numbers.get("test")),
        "attempt": row.attempt,
        "owner": row.owner,
        "updated_at": row.updated_at.isoformat(timespec="seconds"),
        "error": row.error or row.unreadable,
        "note": row.note,
    }


def run_id_of(ledger: Ledger, asked: str) -> str:
    """The ledger's id of a run by its name, its id, or how that begins.

    Raises:
        InputError: none, or several; or one of which a report alone is left.
    """
    from flows.cli.runs import find_run, known_runs

    found = find_run(known_runs(ledger), asked)
    if found.run_id is None:
        raise InputError(
            f"run {found.ids[0][:12]} ({found.name}) is not in this ledger. Remedy: `dept report` shows it"
        )
    return found.run_id


def _show_all(found: Sequence[dict[str, Any]]) -> None:
    columns = [Column("Fingerprint", whole=True), Column("Trial"), Column("Variant"), Column("Status", whole=True)]
    columns += [Column("Valid.", right=True), Column("Test", right=True)]
    keys = ["trial", "variant", "status", "validation", "test"]
    if piped():
        columns += [Column("Kind"), Column("Attempt"), Column("Owner"), Column("Updated"), Column("Error")]
        keys += ["kind", "attempt", "owner", "updated_at", "error"]
        table("", columns, [[line["fingerprint"], *map(line.get, keys)] for line in found])
        return
    title = f"{_trials(len(found))}"
    table(title, columns, [[line["fingerprint"][:12], *map(line.get, keys)] for line in found])
    for line in found:
        if line["error"]:
            show(f"[red]{line['fingerprint'][:12]}[/] {escape(line['error'])}")


def _ledger() -> Ledger:
    found = stores.ledger()
    if found is None:
        raise InputError("trials: the ledger is empty; `dept run demo` trains some")
    return found


def _resolved(ledger: Ledger, begins: Sequence[str]) -> list[str]:
    """Whole fingerprints."""
    wanted = []
    for begin in begins:
        if not re.fullmatch(r"[0-9a-f]{4,64}", begin):
            raise InputError(f"trials: {begin!r} is no fingerprint: give at least 4 of its hex digits")
        fits = [begin] if ledger.get(begin) else ledger.begins(begin)
        if len(fits) != 1:
            raise InputError(f"trials: {'several trials begin' if fits else 'no trial begins'} with {begin}")
        wanted += fits
    return wanted


def _known(what: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise InputError(f"trials: unknown {what} {value!r}{near(value, known)}")


def _moment(text: str) -> datetime:
    try:
        if found := re.fullmatch(r"(\d+)([mhdw])", text):
            return datetime.now(UTC) - timedelta(**{UNITS[found[2]]: int(found[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"trials: --since {text}: give 30m, 12h, 7d, or a date such as 2026-11-25") from error
    return moment.astimezone(UTC)  # without a zone: the user's own


def _label(row: TrialRow) -> str:
    return f"{row.task}/(cannot be read)" if row.unreadable else row.trial_spec.label


def _trials(number: int) -> str:
    return f"{number:,} trial{'' if number == 1 else 's'}"


def _percent(scores: dict[str, Any] | None) -> float | None:
    score = (scores or {}).get("score", (scores or {}).get("accuracy"))  # outcomes of old versions hold no score
    return None if score is None else float(score)
