"""`dept settings`: every setting with its value, its origin and its meaning."""

from __future__ import annotations

from dataclasses import asdict

from rich.padding import Padding
from rich.text import Text

from flows.cli.terminal import Column, Json, document, piped, show, table


def show_settings(as_json: Json = False) -> None:
    """Show every setting: value, where it comes from, what it means. Passwords are masked.

    Example: DEPT_HOME=/data/dept dept settings
    """
    from infra.settings_table import strays, told

    rows = told()
    if as_json:
        document({"settings": [asdict(row) for row in rows], "unknown": strays()})
        return
    if piped():
        columns = [Column(name) for name in ("Setting", "Value", "Origin", "Default", "Meaning")]
        table("", columns, [(row.name, row.value, row.origin, row.default, row.meaning) for row in rows])
    else:
        for row in rows:  # values are paths and URLs: a table of 80 columns would break them
            value = Text(f"{row.name} = {row.value}", style="" if row.origin == "default" else "bold")
            show(value.append(f"   ({row.origin})", style="dim"))
            show(Padding(Text(row.meaning, style="dim"), (0, 0, 0, 4)))
