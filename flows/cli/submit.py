"""`dept submit`: a plan is carried out by the pools of a Prefect server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.group import FAILED, INTERRUPTED
from flows.cli.run import Changes
from flows.cli.terminal import tell
from infra.errors import InputError

if TYPE_CHECKING:
    from flows.planning.plan import Plan

DEPLOYMENT = "dept-transfer/fewshot"


def submit(
    plan: Annotated[str, typer.Argument(help="Name of a shipped plan (demo), or path of a .yaml file.")],
    settings: Changes = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers at a time; default: the plan's.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start it again, up to 3 times, if it crashes.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end, with its log.")] = False,
) -> None:
    """Send PLAN to the deployment dept-transfer/fewshot, once it is found right, with the rows of its own tasks.

    What `dept run` would refuse is refused before anything is sent. The rows go to the store, and the paths of the plan
    count from its folder. With --watch the exit code is 0 for a run that completed, 1 for one that failed or crashed,
    130 for one that was cancelled.

    Example: dept submit plan.yaml --set "shots=[4,16]" --watch
    """
    from flows.planning.plan_file import load_plan, with_settings
    from flows.planning.roots import check_paths

    loaded = with_settings(load_plan(plan), settings or [])
    sent = _with_rows(loaded)
    check_paths(sent)  # of what is left: a backbone that is a folder

    from infra.submitted import follow, page, submitted
    from infra.temporary_server import needed_api

    api = needed_api()
    parameters = {"plan": sent.model_dump(mode="json"), "restart": restart}
    parameters |= {} if workers is None else {"workers": workers}
    try:
        run = submitted(api, DEPLOYMENT, loaded.name, parameters, [loaded.name])
        tell(f"Prefect: {page(api, run)}")
        typer.echo(f"Submitted {loaded.name}: {run}")
        state = follow(api, run, typer.echo, restart) if watch else "COMPLETED"
    except ConnectionError as error:
        raise InputError(f"Prefect server {api}: {error}. Remedy: check that it runs (`dept status`)") from error
    except KeyboardInterrupt as stop:
        raise type(stop)("It goes on without this command; cancel it on its page.") from None
    if state != "COMPLETED":
        raise typer.Exit(INTERRUPTED if state == "CANCELLED" else FAILED)


def _with_rows(plan: Plan) -> Plan:
    """The plan, checked as `dept run` checks it, with its own rows in the store."""
    from flows.execution.open import open_plan
    from flows.execution.own_tasks import remember

    return remember(open_plan(plan), plan)
