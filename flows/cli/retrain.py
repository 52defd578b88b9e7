"""`dept retrain`: challengers for stale champions."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def retrain(
    plan: Annotated[
        str | None, typer.Argument(help="Plan whose own tasks count, beside those that the ledger remembers.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Backbone whose champions to look at.")] = "smollm2-135m",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (may be given again); default: all.")] = None,
    max_age_days: Annotated[float, typer.Option(help="An older champion is stale.")] = 30.0,
    margin: Annotated[float, typer.Option(help="Points of its metric that a challenger must be better by.")] = 1.0,
    confidence: Annotated[float, typer.Option(help="Of all decisions about a champion together, 0.5 to 1.")] = 0.95,
    dtype: Annotated[str | None, typer.Option(help="Number type of challengers; champions keep their own.")] = None,
) -> None:
    """Look whether champions are stale; train challengers for those that are.

    A challenger is one adapter that learns from k rows and is chosen by k others, so it is weaker by its making than a
    champion of several adapters, or of one that learned from all 2k rows.

    Example: dept retrain --task movie-polarity --max-age-days 7
    """
    from flows.planning.plan_file import validated
    from flows.planning.retraining import Retraining

    order = validated(
        Retraining,
        "retrain",
        backbone=backbone,
        tasks=task or [],
        own_tasks=_own_tasks(plan),
        max_age_days=max_age_days,
        margin=margin,
        confidence=confidence,
        dtype=dtype,
    )

    from flows import retrain as flow

    done = flow.run(order)
    for name, reasons in done["stale"].items():
        typer.echo(f"stale: {name} ({'; '.join(reasons)})")
    for decision in done["decisions"]:
        typer.echo(f"{decision['model']}: {decision['decision']}, {decision['reason']}")
    for label, reason in done["failed"].items():
        typer.echo(f"failed: {label} ({reason})")
    for name, reason in done["left_out"].items():
        typer.echo(f"left out: {name} ({reason})")
    fresh = len(done["fresh"])
    if not done["stale"] and fresh:
        typer.echo(f"Nothing is stale: {fresh} champions looked at.")
    elif not done["stale"] and not done["left_out"]:
        typer.echo("No champion yet: `dept run` makes one.")


def _own_tasks(plan: str | None) -> list[dict[str, Any]]:
    if plan is None:
        return []
    from flows.planning.plan_file import load_plan

    return [task.model_dump() for task in load_plan(plan).own_tasks]
