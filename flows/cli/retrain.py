"""`dept retrain`: challengers for stale champions."""

from __future__ import annotations

from typing import Annotated

import typer


def retrain(
    backbone: Annotated[str, typer.Option(help="Backbone whose champions to look at.")] = "smollm2-135m",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (may be given again); default: all.")] = None,
    max_age_days: Annotated[float, typer.Option(help="An older champion is stale.")] = 30.0,
    margin: Annotated[float, typer.Option(help="Points of accuracy that a challenger must be better by.")] = 1.0,
) -> None:
    """Look whether champions are stale; train challengers for those that are.

    Example: dept retrain --task movie-polarity --max-age-days 7
    """
    from flows.planning.plan_file import validated
    from flows.planning.retraining import Retraining

    order = validated(
        Retraining, "retrain", backbone=backbone, tasks=task or [], max_age_days=max_age_days, margin=margin
    )

    from flows import retrain as flow

    done = flow.run(order)
    for name, reasons in done["stale"].items():
        typer.echo(f"stale: {name} ({'; '.join(reasons)})")
    for decision in done["decisions"]:
        typer.echo(f"{decision['model']}: {decision['decision']}, {decision['reason']}")
    if not done["stale"]:
        fresh = len(done["fresh"])
        typer.echo(
            f"Nothing is stale: {fresh} champions looked at." if fresh else "No champion yet: `dept run` makes one."
        )
