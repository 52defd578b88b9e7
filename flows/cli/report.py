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
    run_id: Annotated[str | None, typer.Argument(help="Run to show, or how its id begins; default: the last.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the last run (the default).")] = False,
    as_json: Json = False,
) -> None:
    """Print the table of a run again, and where its page lies.

    Example: dept report --last --json
    """
    from flows.reporting.html import PAGE, load_outcomes
    from infra.settings import home

    if last and run_id is not None:
        raise InputError("report: give either --last or a run, not both")
    if run_id is not None:
        safe_name(run_id, "run")
    root = home() / "reports"
    folder = _last(root) if run_id is None else _named(root, run_id)
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
    from flows.reporting.summary import headline, summary_rows

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


def _named(root: Path, run_id: str) -> Path:
    from flows.reporting.html import NUMBERS

    known = sorted(path.parent.name for path in root.glob(f"*/{NUMBERS}"))
    fits = [name for name in known if name == run_id] or [name for name in known if name.startswith(run_id)]
    if len(fits) == 1:
        return root / fits[0]
    said = "several runs begin with" if fits else "no run"
    raise InputError(f"report: {said} {run_id!r}; known: {', '.join(fits or known) or 'none yet'}")
