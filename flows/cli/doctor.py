"""`dept doctor`: what is installed, what answers, what is in reach."""

from __future__ import annotations

from dataclasses import asdict

import typer

from flows.cli.group import FAILED
from flows.cli.terminal import Column, Json, complain, document, show, table

STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


def doctor(as_json: Json = False) -> None:
    """Say what is installed, which servers answer, which backbones and data are in reach.

    Exit code 1: something that is needed is missing.

    Example: dept doctor --json
    """
    from flows.cli.findings import examine

    findings = examine()
    missing = [finding.what for finding in findings if finding.state == "missing"]
    if as_json:
        document({"missing": missing, "findings": [asdict(finding) for finding in findings]})
    else:
        columns = (Column("State", whole=True), Column("What", whole=True), Column("Found, and what to do"))
        rows = [(f.state, f.what, f.text + (f". Remedy: {f.remedy}" if f.remedy else "")) for f in findings]
        table("dept doctor", columns, rows, [STYLES[finding.state] for finding in findings])
    if missing:
        complain(f"[bold red]Missing:[/] {', '.join(missing)}")
        raise typer.Exit(FAILED)
    if not as_json:
        show("Nothing that is needed is missing.")
