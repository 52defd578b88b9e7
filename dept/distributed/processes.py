"""The ranks as processes of this machine: start torchrun, end it, leave none behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from dept.distributed import job
from infra.errors import InputError

DTYPES = ("float32", "bfloat16")


def check(ranks: int, dtype: str, cuda: bool) -> None:
    """Refuse ranks that cannot run here, and number types that cannot be sharded.

    Raises:
        InputError: which.
    """
    if ranks < 1:
        raise InputError(f"engine deepspeed: ranks={ranks}; at least 1 is needed")
    if cuda and ranks > torch.cuda.device_count():
        raise InputError(
            f"engine deepspeed: ranks={ranks}, but there are {torch.cuda.device_count()} CUDA devices. "
            "Remedy: fewer ranks, or CUDA_VISIBLE_DEVICES='' for ranks on the CPU"
        )
    if dtype not in DTYPES:
        raise InputError(f"engine deepspeed: dtype {dtype!r} cannot be sharded; known: {', '.join(DTYPES)}")


def start(folder: Path, ranks: int, cuda: bool) -> subprocess.Popen[bytes]:
    """Start the ranks of the session in `folder`: gloo between CPU ranks, NCCL between CUDA devices, one a rank."""
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


def end(agent: subprocess.Popen[bytes]) -> None:
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
