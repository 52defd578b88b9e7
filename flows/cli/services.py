"""`dept up`, `dept down`, `dept status`: the services of this machine, and what they are doing."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.terminal import Json, document


def up(
    prefect_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: $PREFECT_PORT or 4200.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: $MLFLOW_PORT or 5000.")] = None,
) -> None:
    """Start the Prefect server, the MLflow server and workers for the pools control and gpu here, and deploy.

    Example: dept up --prefect-port 4201
    """
    from infra import services

    services.up(prefect_port, mlflow_port, say=typer.echo)


def down() -> None:
    """Stop what `dept up` started, and nothing else.

    Example: dept down
    """
    from infra import services

    services.down(say=typer.echo)


def status(as_json: Json = False) -> None:
    """Say what runs: services, workers and their pools, waiting flow runs, trials under way or orphaned, last runs.

    Example: dept status --json
    """
    from flows.cli.state import found, lines

    now = found()
    if as_json:
        document(now)
        return
    for line in lines(now):
        typer.echo(line)
