"""One rank at work: it does the session's jobs one after the other, together with the other ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from dept.adapters.stack import Tensors
from dept.batches.pack import Pack
from dept.distributed import job
from dept.distributed.sharded import Sharded, check_shares, gathered, join_ranks, load_sharded
from dept.engine.evaluate import score_rows
from dept.engine.features import features
from dept.engine.generate import generate_ids
from dept.engine.memory import provenance
from dept.engine.mixture import learn_weights
from dept.engine.search import search
from dept.engine.state import Result, State
from dept.engine.train import train

PROGRESS_SECONDS = 0.2
POLL_SECONDS = 0.05


def serve(folder: Path, settings: job.Settings) -> None:
    """Load this rank's share of the backbone and do jobs until the session is over; rank 0 alone writes answers.

    Raises:
        InputError: a backbone that cannot be loaded, a full disk.
        RuntimeError: this rank holds more or less than its share of the backbone, or another rank is gone.
    """
    rank, place = join_ranks()
    backbone = load_sharded(settings.backbone, settings.dtype, place)
    report: dict[str, Any] = {"rank": rank, "pid": os.getpid(), **check_shares(backbone, settings.ranks)}
    report["provenance"] = provenance(backbone)
    job.write_json(folder / "ranks" / f"{rank}.json", report)
    ranks = Ranks(backbone, rank, settings.ranks, folder)
    number = 0
    # Each rank looks for itself: one that waited for another's word would be taken for hung after a while.
    while (work := _next(folder, number)) is not None:
        JOBS[job.kind_of(work)](work, backbone, ranks)
        ranks.tell(at_once=True)
        job.write_json(folder / "ranks" / f"{rank}.json", {**report, "left_gathered": ranks.left_gathered})
        distributed.barrier()
        if rank == 0:
            job.write_json(work / job.DONE, {})
        number += 1
    distributed.destroy_process_group()


def _next(folder: Path, number: int) -> Path | None:
    """The folder of a job, as soon as it is there; None when the session is over."""
    work = job.folder_of(folder, number)
    while not (work / job.JOB).is_file():
        if (folder / job.STOP).is_file():
            return None
        time.sleep(POLL_SECONDS)
    return work


def _train(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    options, trials = job.read_trials(work)
    index = {trial.key: i for i, trial in enumerate(trials)}
    restored: dict[str, Any] = {}

    def write(result: Result) -> None:
        job.write_result(work, index[result.key], result)

    def tell(key: str, state: State) -> None:
        restored[key] = asdict(state)
        job.write_json(work / job.RESTORED, restored)

    train(
        trials,
        backbone,
        options,
        on_result=write if ranks.rank == 0 else None,
        on_tokens=ranks.count,
        on_restored=tell if ranks.rank == 0 else None,
        on_point=(lambda point: job.write_point(work, point)) if ranks.rank == 0 else None,
        parallel=ranks,
    )  # all restore, one saves


def _search(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    options, trials = job.read_trials(work)
    told = job.read_json(work / job.JOB)
    folds = int(told["folds"])
    candidates = [trials[at : at + folds] for at in range(0, len(trials), folds)]
    found = search(
        told["search"],
        candidates,
        backbone,
        options,
        rungs=told["rungs"],
        eta=told["eta"],
        seconds=told["seconds"],
        on_tokens=ranks.count,
        parallel=ranks,
    )
    if ranks.rank == 0:
        job.write_json(work / job.ANSWER, {**found.told(), "raws": found.raws})


def _score(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    adapters, items, _ = job.read_items(work)
    tensors = Tensors.of(adapters, backbone.device)
    _answer(work, ranks, score_rows(backbone, tensors, items, progress=ranks.count))


def _generate(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    adapters, items, told = job.read_items(work)
    tensors = Tensors.of(adapters, backbone.device)
    _answer(work, ranks, generate_ids(backbone, tensors, items, told["most"], ranks.count))


def _mixture(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    adapters, items, told = job.read_items(work)
    rows: dict[int, list[Any]] = {}
    for target, row in items:
        rows.setdefault(target, []).append(row)
    weights = learn_weights(backbone, adapters, rows, told["steps"], ranks.count, ranks)
    _answer(work, ranks, [weights[target] for target in sorted(weights)])


@torch.inference_mode()
def _embed(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    ids = torch.tensor(job.read_json(work / job.JOB)["ids"], device=backbone.device)
    _write(work, ranks, backbone.embed(ids).float().cpu())


def _features(work: Path, backbone: Sharded, ranks: Ranks) -> None:
    adapters, items, told = job.read_items(work)
    tensors = Tensors.of(adapters, backbone.device) if adapters else None
    _write(work, ranks, features(backbone, items, told["depths"], tensors, progress=ranks.count))


def _write(work: Path, ranks: Ranks, found: Tensor) -> None:
    if ranks.rank == 0:
        save_file({"found": found.contiguous()}, work / job.TENSOR)


def _answer(work: Path, ranks: Ranks, found: list[Any]) -> None:
    if ranks.rank == 0:
        job.write_json(work / job.ANSWER, found)


JOBS: dict[str, Callable[[Path, Sharded, Ranks], None]] = {
    "train": _train,
    "search": _search,
    "score": _score,
    "features": _features,
    "generate": _generate,
    "mixture": _mixture,
    "embed": _embed,
}


class Ranks:
    """How ranks share a step: each takes part of the rows of every micro-batch. See `dept.engine.parallel.Parallel`."""

    def __init__(self, backbone: Sharded, rank: int, size: int, folder: Path) -> None:
        self.backbone, self.rank, self.size, self.folder = backbone, rank, size, folder
        self.saves = rank == 0
        self.left_gathered = 0
        self.tokens, self.mine = 0, 0
        self.awaited: list[float] = []  # weights of the micro-batches that this rank has still to train on
        self.told = time.monotonic()

    def share(self, groups: list[list[Pack]]) -> list[tuple[list[Pack], float]]:
        """Every `size`-th pack of each group; where there is none for this rank, one of another with weight 0."""
        shared = [(group[self.rank :: self.size] or group[:1], float(len(group) > self.rank)) for group in groups]
        self.awaited = [weight for _, weight in shared]
        return shared

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over the ranks, in place, at the end of a step."""
        self.left_gathered = max(self.left_gathered, gathered(self.backbone))
        self.backbone.offload.release_backward_leftovers()
        trained = torch.tensor(self.mine, device=self.backbone.device)
        for tensor in (*tensors, trained):
            distributed.all_reduce(tensor)
        self.mine = 0
        self.tokens += int(trained)
        self.tell()

    def agree(self, scores: list[list[float]]) -> list[list[float]]:
        """Rank 0's scores: what is decided by them must be the same on every rank, to the last bit."""
        flat = torch.tensor([s for row in scores for s in row], dtype=torch.float64, device=self.backbone.device)
        distributed.broadcast(flat, src=0)
        values = iter(flat.tolist())
        return [[next(values) for _ in row] for row in scores]

    def count(self, tokens: int) -> None:
        """Count the tokens of a micro-batch: each rank trains on its own, all validate on the same."""
        if self.awaited:
            self.mine += tokens if self.awaited.pop(0) else 0
        else:
            self.tokens += tokens
            self.tell()

    def tell(self, at_once: bool = False) -> None:
        """Write how many tokens are done, for the flow's progress bar."""
        if self.rank == 0 and (at_once or time.monotonic() - self.told >= PROGRESS_SECONDS):
            job.write_json(self.folder / job.PROGRESS, {"tokens": self.tokens})
            self.told = time.monotonic()
