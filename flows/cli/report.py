"""`dept report`: the table of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.terminal import Column, Json, document, piped, show, table, tell
from infra.errors import InputError
from infra.names import safe_name

if TYPE_CHECKING:
    from dept.trial import TrialOutcome


def report(
    run: Annotated[
        str | None, typer.Argument(help="Run to show: its name, its id, or how the id begins; default: the last.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the last run (the default).")] = False,
    as_json: Json = False,
) -> None:
    """Print the table of a run again, and where its page lies.

    Example: dept report --last --json
    """
    from flows.reporting.html import PAGE, load_outcomes
    from infra.settings import home

    if last and run is not None:
        raise InputError("report: give either --last or a run, not both")
    root = home() / "reports"
    folder = _last(root) if run is None else _named(root, run)
    outcomes = load_outcomes(folder)
    if as_json:
        document({"run": folder.name, "page": folder / PAGE, **numbers(outcomes)})
    else:
        show_table(outcomes)
        typer.echo(f"Report: {folder / PAGE}")  # not through rich, which would break a long path


def show_table(outcomes: list[TrialOutcome]) -> None:
    """The table of a run: as it fits a terminal, or whole lines for a pipe."""
    from flows.reporting.html import terminal_table

    if not piped():
        show(terminal_table(outcomes))
        return
    found = numbers(outcomes)
    columns = ("Target", "k", "Variant", "Metric", "Score", "Std", "Seeds", "Gain", "From")
    keys = ("target", "k", "variant", "metric", "score", "std", "n", "gain", "from")
    table("", [Column(name) for name in columns], [[line[key] for key in keys] for line in found["lines"]])
    tell(f"{found['headline']} {found['detail']}")


def numbers(outcomes: list[TrialOutcome]) -> dict[str, Any]:
    """The table as plain data: one line for each target, k and variant. Scores are percent, gains are points."""
    from flows.reporting.answers import ece_of
    from flows.reporting.headline import headline
    from flows.reporting.summary import summary_rows

    rows = summary_rows(outcomes)
    answer = headline(rows)
    lines = []
    for row in rows:
        for variant, cell in row.cells.items():
            gains = row.gains_of(variant) if variant not in ("scratch", "untrained") else ()
            lines.append(
                {
                    "target": row.target,
                    "k": row.k,
                    "variant": variant,
                    "metric": row.metric,
                    "score": cell.mean,
                    "std": cell.std,
                    "n": cell.n,
                    "scores": list(cell.scores),
                    "seeds": list(cell.seeds),
                    "gain": sum(gains) / len(gains) if gains else None,
                    "ece": ece_of(cell),
                    "from": cell.origin or None,
                }
            )
    return {"headline": answer.text, "detail": answer.detail, "gain": answer.gain, "lines": lines}


def _last(root: Path) -> Path:
    from flows.reporting.html import NUMBERS

    folders = [path.parent for path in root.glob(f"*/{NUMBERS}")]
    if not folders:
        raise InputError(f"report: none in {root} yet; `dept run demo` makes one")
    return max(folders, key=lambda folder: (folder / NUMBERS).stat().st_mtime_ns)


def _named(root: Path, asked: str) -> Path:
    from flows.cli import stores
    from flows.cli.runs import find_run, known_runs
    from flows.reporting.html import NUMBERS

    run = find_run(known_runs(stores.ledger()), asked)
    if run.page_id is None or not (root / safe_name(run.page_id, "run") / NUMBERS).is_file():
        raise InputError(
            f"report: run {run.ids[0][:12]} ({run.name}) has none on this machine. Remedy: `dept run` of its plan "
            "writes one, from what the ledger holds"
        )
    return root / run.page_id
