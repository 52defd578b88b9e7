"""Train trials on several ranks: start torchrun, watch it, hand on results as they come, leave no process behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from dept.backbones.files import folder_of
from dept.config import EngineOptions
from dept.distributed import job
from dept.engine.state import Result, State, Trial
from infra.errors import InputError, WorkerDiedError
from infra.settings import home

POLL_SECONDS = 0.1
LOG_LINES = 25
DTYPES = ("float32", "bfloat16")


class RankDiedError(WorkerDiedError):
    """A rank ended before its trials were done; the message holds the last lines of the ranks' log."""


def train_sharded(
    trials: Sequence[Trial],
    backbone: str,
    *,
    ranks: int = 2,
    dtype: str | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
    on_restored: Callable[[str, State], None] | None = None,
    options: EngineOptions | None = None,
    folder: Path | None = None,
    timeout: float | None = None,
) -> dict[str, Result]:
    """Train trials as `dept.engine.train` does, on a backbone that DeepSpeed ZeRO-3 shards over `ranks` processes.

    The ranks are processes of this machine: gloo between CPU ranks, NCCL between CUDA devices, one device a rank. They
    end when this process ends, however it ends.

    Args:
        backbone: catalogue name, folder or hub id, as for `Backbone.from_pretrained`; each rank loads its share.
        dtype: "float32" or "bfloat16"; default float32 on CPU and bfloat16 on CUDA.
        on_result: called in this process once per trial, soon after it has left the stack.
        on_restored: called in this process once for each trial that goes on from a checkpoint.
        options: see `dept.engine.train.train`.
        on_tokens: called in this process with the real tokens trained and validated on since the last call.
        folder: where the job's files lie, must be new; default below home()/jobs. When all is done the ranks' log and
            what each of them held (`ranks/N.json`) stay; after a failure all does.
        timeout: seconds after which the ranks are taken for hung.

    Raises:
        RankDiedError: a rank ended early or `timeout` passed; every other rank is gone by then. Results handed to
            `on_result` stay good, and a call with the same `options.checkpoint_folder` goes on with the rest.
        InputError: an unknown backbone, more ranks than devices, a dtype that cannot be sharded, a full disk.
    """
    if not trials:
        return {}
    cuda = torch.cuda.is_available()
    dtype = dtype or ("bfloat16" if cuda else "float32")
    _check(ranks, dtype, cuda)
    folder_of(backbone)  # an unknown name ends here, and an embedded backbone is converted once, not by each rank
    folder = (folder or home() / "jobs" / uuid.uuid4().hex[:12]).absolute()
    me = os.getpid()
    settings = job.Settings(
        backbone,
        dtype,
        ranks,
        options or EngineOptions(),
        me,
        psutil.Process(me).create_time(),
    )
    try:
        job.write(folder, settings, trials)
    except OSError as error:
        raise InputError(
            f"engine deepspeed: cannot write {folder} ({error}). Remedy: free space or choose another DEPT_HOME"
        ) from error
    results = _watch(folder, [trial.key for trial in trials], ranks, cuda, on_result, on_tokens, timeout)
    job.clear(folder)
    return results


def _check(ranks: int, dtype: str, cuda: bool) -> None:
    if ranks < 1:
        raise InputError(f"engine deepspeed: ranks={ranks}; at least 1 is needed")
    if cuda and ranks > torch.cuda.device_count():
        raise InputError(
            f"engine deepspeed: ranks={ranks}, but there are {torch.cuda.device_count()} CUDA devices. "
            "Remedy: fewer ranks, or CUDA_VISIBLE_DEVICES='' for ranks on the CPU"
        )
    if dtype not in DTYPES:
        raise InputError(f"engine deepspeed: dtype {dtype!r} cannot be sharded; known: {', '.join(DTYPES)}")


def _watch(
    folder: Path,
    keys: Sequence[str],
    ranks: int,
    cuda: bool,
    on_result: Callable[[Result], None] | None,
    on_tokens: Callable[[int], None] | None,
    timeout: float | None,
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    tokens = 0
    deadline = time.monotonic() + timeout if timeout else float("inf")
    agent = _start(folder, ranks, cuda)
    try:
        while True:
            code = agent.poll()  # before the look into the folder, so that what the ranks wrote last is seen
            total = _tokens(folder)
            if on_tokens is not None and total > tokens:
                on_tokens(total - tokens)
            tokens = max(total, tokens)
            for result in job.read_results(folder, keys, results):
                results[result.key] = result
                if on_result is not None:
                    on_result(result)
            if code is not None:
                break
            if time.monotonic() > deadline:
                raise RankDiedError(f"the ranks did not end within {timeout} s\n{_tail(folder)}")
            time.sleep(POLL_SECONDS)
    finally:
        _end(agent)
    if code or len(results) < len(keys):
        if (folder / job.ERROR).is_file():
            raise InputError(json.loads((folder / job.ERROR).read_text(encoding="utf-8"))["input_error"])
        raise RankDiedError(
            f"a rank died with {len(keys) - len(results)} of {len(keys)} trials to go (torchrun ended "
            f"with {code}); the others are stopped. Log: {folder / job.LOG}\n{_tail(folder)}"
        )
    return results


def _start(folder: Path, ranks: int, cuda: bool) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "PYTHONPATH": path,
        "DS_ACCELERATOR": "cuda" if cuda else "cpu",
        "DS_BUILD_OPS": "0",
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    }  # DeepSpeed's calls of torch
    if sys.platform == "linux" and not cuda:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo asks for the host's address; there may be none
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--nproc-per-node",
        str(ranks),
        "--max-restarts",
        "0",
        "--monitor-interval",
        "0.2",
        "--module",
        "dept.distributed.worker",
        str(folder),
    ]
    with (folder / job.LOG).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Kill torchrun and its ranks, if they are still there. A rank born meanwhile ends itself (`worker.watch`)."""
    if agent.poll() is not None:
        return
    try:
        processes = psutil.Process(agent.pid).children(recursive=True)
    except psutil.Error:
        processes = []
    agent.kill()
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    agent.wait()
    psutil.wait_procs(processes, timeout=10)


def _tokens(folder: Path) -> int:
    try:
        return int(json.loads((folder / job.PROGRESS).read_text(encoding="utf-8"))["tokens"])
    except FileNotFoundError:
        return 0


def _tail(folder: Path) -> str:
    lines = (folder / job.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])
