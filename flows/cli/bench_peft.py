"""`dept bench-peft`: DePT by the protocol of PEFT's method comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.group import INTERRUPTED
from flows.cli.terminal import complain, show, tell


def bench_peft(
    settings: Annotated[str, typer.Argument(help="Shipped settings, or path of a .yaml file.")] = "llama-3.2-3b",
    results: Annotated[Path, typer.Option(help="Folder for dept--NAME.json and the adapter.")] = Path("results"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the best.")] = None,
) -> None:
    """Train DePT on MetaMathQA and test it on GSM8K, as PEFT compares methods; writes a result in its JSON layout.

    Rows come from the hub, or from DEPT_DATA: metamath/train, gsm8k/train and test, finewiki/train (.jsonl, .parquet).

    Example: dept bench-peft llama-3.2-3b --results results
    """
    import json

    from flows.studies.peft_comparison.protocol import load_settings

    chosen = load_settings(settings)
    from flows.studies.peft_comparison.bench import bench  # torch

    try:
        path = bench(chosen, results, device, tell)
    except KeyboardInterrupt:
        complain("Interrupted. Nothing is kept: a run that is timed cannot be taken up again.")
        raise typer.Exit(INTERRUPTED) from None
    body = json.loads(path.read_text(encoding="utf-8"))
    last, train = body["train_info"]["metrics"][-1], body["train_info"]
    show(
        f"Test accuracy {100 * last['test accuracy']:.1f} %, forgetting {last['forgetting']:+.3f} nats, "
        f"{train['num_trainable_params']:,} trainable numbers, {train['train_time']:,.0f} s, "
        f"{train['accelerator_memory_max'] / 2**30:.1f} GiB at most"
    )
    typer.echo(f"Result: {path}")
