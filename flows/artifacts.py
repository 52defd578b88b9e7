"""Artifacts of a run on Prefect's pages: the way to MLflow, the table of scores, the plot. None is worth a run."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from dept.trial import TrialOutcome
from flows.execution.context import RunContext
from flows.reporting.html import markdown
from flows.reporting.summary import Row, summary_rows
from infra.flow_run import never_in_the_way, own_id
from infra.names import slug

MOST_ROWS, MOST_BYTES = 200, 400_000  # of a table; of a plot, which Prefect keeps in its database


def key(what: str, name: str) -> str:
    """Of an artifact: the same for all runs of a plan, so that its page has their history."""
    return f"{what}-{slug(name)}"


def link_to_mlflow(context: RunContext, name: str) -> None:
    """The run in MLflow, where a server shows it."""
    link = context.tracker.link(context.parent_run)
    if link and own_id() is not None:
        with never_in_the_way("the link to MLflow"):
            create_link_artifact(link, "The run in MLflow", key("mlflow", name), f"MLflow run of {name}")


def results(name: str, outcomes: Sequence[TrialOutcome], page: Path) -> None:
    """Report, table of test scores and first plot.

    Args:
        page: of the report; its plots lie beside it.
    """
    if own_id() is None:
        return
    rows = summary_rows(outcomes)
    with never_in_the_way("the table"):
        text = markdown(f"dept-transfer: {name}", outcomes)
        create_markdown_artifact(text, key("report", name), f"{name}: what transfer was worth")
        if rows:
            create_table_artifact([_line(row) for row in rows[:MOST_ROWS]], key("scores", name), "Test scores, percent")
    for plot in sorted(page.parent.glob("*.png"))[:1]:
        with never_in_the_way("the plot"):
            _plot(name, plot, create_image_artifact)


def _line(row: Row) -> dict[str, Any]:
    cells = {variant: cell.text for variant, cell in row.cells.items()}
    return {"target": row.target, "k": row.k, "metric": row.metric, **cells, "gain": row.gain}


def _plot(name: str, file: Path, create: Callable[..., Any]) -> None:
    raw = file.read_bytes()
    if len(raw) <= MOST_BYTES:
        image = f"data:image/png;base64,{base64.b64encode(raw).decode()}"
        create(image, key("plot", name), f"{file.stem} of {name}")
