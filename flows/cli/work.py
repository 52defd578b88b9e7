"""`dept work` and `dept tune`: what a worker does by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from flows.cli.terminal import Column, Json, document, show, table, tell


def work(
    run: Annotated[
        str | None, typer.Option(help="Only trials of this run: its name, its id, or how that begins.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Only runs of this backbone, as their plans name it.")] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="End as soon as nothing can be claimed, or no device is free."),
    ] = False,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="As many workers as this machine has devices, each with its own.")
    ] = False,
) -> None:
    """Work on the trials that runs have left in the ledger, until none is left to claim.

    Any machine that reaches ledger, store and MLflow may do so, any number of them at once; each takes its share. While
    a run is under way it lingers for DEPT_LINGER_SECONDS, since the next stage may come.

    Each worker holds a device of its own: a GPU, or one of DEPT_CPU_SLOTS.

    Example: DEPT_LEDGER_URL=postgresql+psycopg://host/dept DEPT_STORE=s3://bucket/dept
    MLFLOW_TRACKING_URI=http://host:5000 dept work
    """
    from flows import work as flow
    from flows.cli import stores
    from flows.cli.run_log import run_log
    from flows.cli.trials import run_id_of

    ledger = stores.ledger()
    if ledger is None:
        show("Nothing to do: no run has begun yet (`dept run demo`).")
        return
    run_id = None if run is None else run_id_of(ledger, run)
    if all_devices:
        _one_each(run_id, backbone, once)
        return
    with run_log("work", {"run": run_id}) as log:
        groups = flow.run(run_id, backbone, once)
    done = f"Done: {groups:,} group{'' if groups == 1 else 's'} of trials." if groups else "Nothing to do now."
    others = sum(good for _, good in ledger.held())
    show(f"{done} Others are at work on {others:,} trials." if others else done)
    if log.is_file():
        tell(f"Log: {log}")


def _one_each(run_id: str | None, backbone: str | None, once: bool) -> None:
    """A process for each device, until all have ended; a signal ends them all. Exit code: the first that failed."""
    import subprocess
    import sys

    from infra.devices import every

    command = [sys.executable, "-m", "flows.cli", "work", *(["--once"] if once else [])]
    for name, value in (("--run", run_id), ("--backbone", backbone)):
        command += [name, value] if value else []
    cuda, names = every()
    tell(f"{len(names)} workers, one for each {'CUDA device' if cuda else 'CPU slot'}.")
    workers = [subprocess.Popen(command) for _ in names]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    if failed := next(filter(None, codes), 0):
        raise typer.Exit(abs(failed))


def tune(
    backbone: Annotated[str, typer.Option(help="Catalogue name, hub id or local folder.")] = "smollm2-135m",
    dtype: Annotated[Literal["float32", "bfloat16"] | None, typer.Option(help="Default: as plans have it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, mps, cuda or cuda:N; default: the best there is.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Measurements of each alternative.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure only; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what is fastest on this machine, in turns, and keep it where it is faster beyond doubt.

    Example: dept tune --backbone smollm2-135m --dry-run
    """
    from dept.backbones.backbone import Backbone
    from dept.engine.tune import tune as measure

    try:
        found = measure(Backbone.from_pretrained(backbone, dtype=dtype, device=device), rounds, not dry_run, tell)
    except KeyboardInterrupt as stop:
        raise type(stop)("Nothing was changed.") from None
    if as_json:
        body = {"before": asdict(found.before), "after": asdict(found.after), "changed": found.changed}
        document({**body, "measured": [asdict(line) for line in found.lines], "file": found.file})
        return
    columns = (Column("What"), Column("Tokens/s", right=True), Column("Quarters", right=True))
    rows = [(line.what, f"{line.rate:.0f}", f"{line.low:.0f} to {line.high:.0f}") for line in found.lines]
    table(f"dept tune {backbone}", columns, rows)
    for line in found.changed or ["Nothing changes: no alternative is faster beyond doubt."]:
        show(line)
    if found.changed and not dry_run:
        tell(f"Kept in {found.file}; deleting it brings the rules back.")
