"""`dept deploy`: pools, deployments and automations on the Prefect server that is set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.terminal import document, tell
from infra.errors import InputError

if TYPE_CHECKING:
    from infra.deployments import Kind

ROOT = Path(__file__).resolve().parents[2]


def deploy(
    kind: Annotated[str, typer.Option("--type", help="Of the pools: process, docker or kubernetes.")] = "process",
    image: Annotated[str, typer.Option(help="Image of the containers (docker, kubernetes).")] = "dept-transfer",
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of the containers; may be given again."),
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--base-job-template", help="JSON file; default for kubernetes: ours.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be put on the server.")] = False,
) -> None:
    """Make or update the pools control and gpu, our deployments and the automations after a crash, from any folder.

    The server is the one that Prefect is set to, else that of `dept up` in this home. A second call changes
    nothing; limits and switches that a person has set stay.

    Example: dept deploy --type kubernetes --image registry.example.org/dept-transfer:cuda
    """
    from infra import deployments
    from infra.pool_templates import templates
    from infra.prefect_api import LIMITS
    from infra.temporary_server import needed_api

    found = _kind(kind)
    if found == "kubernetes" and template is None:
        template = ROOT / "infra" / "k8s" / "work-pool.json"
    try:
        pools = None if template is None else templates(template, LIMITS)
    except (OSError, ValueError) as error:
        what = f"--base-job-template {template}: {error}"
        raise InputError(f"{what}. Remedy: a JSON file, as infra/k8s/work-pool.json") from error
    file, given = ROOT / "infra" / "prefect.yaml", _variables(env or [])
    if dry_run:
        typer.echo(deployments.rendered(file, found, image, given), nl=False)
        if pools is not None:
            document(pools)
        return
    api = needed_api()
    environment = {**os.environ, "PREFECT_API_URL": api}
    try:
        fault = deployments.put(api, file, ROOT, environment, kind=found, image=image, env=given, templates=pools)
    except ConnectionError as error:
        raise InputError(f"Prefect server {api}: {error}. Remedy: `dept up`, or check PREFECT_API_URL") from error
    if fault:
        raise InputError(fault)
    for name in deployments.names(file):
        tell(f"deployed: {name}")
    typer.echo(f"Deployed {len(deployments.names(file))} deployments to {api}, in pools of type {found}.")


def _kind(kind: str) -> Kind:
    from infra.deployments import KINDS

    for one in KINDS:
        if one == kind:
            return one
    raise InputError(f"--type {kind}: unknown. Remedy: {', '.join(KINDS)}")


def _variables(given: list[str]) -> dict[str, str]:
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--env {one}: expected NAME=VALUE, such as MLFLOW_TRACKING_URI=http://mlflow:5000")
        found[name] = value
    return found
