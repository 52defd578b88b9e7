"""Devices of this machine, one worker each, by a file lock that the kernel frees however the process ends.

All users and homes of a machine share the locks. Containers that do not share $DEPT_LOCKS do not see each other: give
each its own devices. No torch here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra import gpus
from infra.errors import InputError
from infra.settings import settings

POLL_SECONDS = 0.5
HIDDEN = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide all
CPU = "cpu"


@dataclass(frozen=True)
class Devices:
    """What this process holds. `names`: CUDA devices as CUDA_VISIBLE_DEVICES has them, or numbers of CPU slots."""

    cuda: bool
    names: tuple[str, ...]
    files: tuple[int, ...]  # open while they are held
    visible: str | None = None  # CUDA_VISIBLE_DEVICES before


_mine: Devices | None = None


def every(cpu: bool = False) -> tuple[bool, list[str]]:
    """Whether workers of this machine run on CUDA devices, and their names; else the numbers of its CPU slots.

    CUDA devices are those of $DEPT_DEVICES, else of $CUDA_VISIBLE_DEVICES, else all that the machine shows; with `cpu`
    they are left aside.
    """
    asked = CPU if cpu else settings().devices
    if asked is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible in HIDDEN:
            asked = CPU
        elif visible is not None:
            asked = visible
        else:
            asked = ",".join(map(str, range(len(list(Path("/dev").glob("nvidia[0-9]*"))))))
    if asked in (CPU, ""):
        return False, [str(slot) for slot in range(settings().cpu_slots)]
    return True, gpus.listed(asked)


def mine() -> Devices | None:
    """What this process holds now."""
    return _mine


def hold(
    count: int = 1,
    *,
    only: str = "",
    cpu: bool = False,
    cuda_only: bool = False,
    wait: bool = True,
    check: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = print,
) -> Devices | None:
    """Hold so many CUDA devices, or one CPU slot, until `release` or the end of the process; waits for them.

    CUDA_VISIBLE_DEVICES names what was got, so it is to be called before CUDA is begun with. On the CPU the threads are
    set: $DEPT_CPU_THREADS, else the cores divided by the slots.

    Args:
        only: this CUDA device, where there are any. cpu: a CPU slot, though there may be CUDA devices.
        cuda_only: where there is no CUDA device nothing is held, and None returned.
        wait: False: refuse at once where too few are free.
        check: called while it waits; may raise. say: gets one line when it begins to wait.

    Raises:
        InputError: the machine has too few, too few are free, or this process holds fewer already.
    """
    global _mine
    cuda, names = every(cpu) if _mine is None else (_mine.cuda, list(_mine.names))
    if not cuda and cuda_only:
        return None
    if only and cuda:
        names = [name for name in names if name == only]
    wanted = count if cuda else 1
    if len(names) < wanted:
        whose = "this machine has" if _mine is None else "this worker holds"
        raise InputError(
            f"devices: {wanted} are needed, {whose} {len(names)} ({', '.join(names)}). Remedy: fewer ranks, or a "
            "worker that can have so many (CUDA_VISIBLE_DEVICES, DEPT_DEVICES)"
        )
    if _mine is not None:
        return _mine
    told = False
    while (files := _try(cuda, names, wanted)) is None:
        busy = f"{'CUDA devices' if cuda else 'CPU slots'} of this machine are taken{_whose(cuda, names)}"
        if not wait:
            remedy = "wait" if cuda else "wait, or a larger DEPT_CPU_SLOTS"
            raise InputError(f"devices: all {len(names)} {busy}. Remedy: {remedy}")
        if not told:
            say(f"All {len(names)} {busy}; waiting for one.")
            told = True
        check()
        time.sleep(POLL_SECONDS)
    _mine = Devices(cuda, tuple(files), tuple(files.values()), os.environ.get("CUDA_VISIBLE_DEVICES"))
    _use(_mine)
    return _mine


def release() -> None:
    """Let go of what this process holds; without effect where it holds nothing."""
    global _mine
    if _mine is not None:
        for file in _mine.files:
            os.close(file)
        if _mine.visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = _mine.visible
        _mine = None


def _try(cuda: bool, names: Sequence[str], count: int) -> dict[str, int] | None:
    """Locked files by name; None, and nothing locked, where fewer are free."""
    got: dict[str, int] = {}
    for name in names:
        file = _open(_file(cuda, name))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        got[name] = file
        if len(got) == count:
            for one in got.values():
                with contextlib.suppress(OSError):  # of another user: for people only
                    os.ftruncate(one, 0)
                    os.pwrite(one, f"{os.getpid()}\n".encode(), 0)
            return got
    for file in got.values():
        os.close(file)
    return None


def _file(cuda: bool, name: str) -> Path:
    known = gpus.card(name) if cuda else name  # by number or uuid: one card, one lock
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in known)
    return settings().locks / f"{'cuda' if cuda else 'cpu'}-{plain}.lock"


def _open(path: Path) -> int:
    """The file, made where it is missing; of another user it is only read, which is enough to lock it."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                path.parent.chmod(0o1777)
        safe = os.O_NOFOLLOW | os.O_CLOEXEC
        for flags in (os.O_RDWR, os.O_RDONLY):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                return os.open(path, flags | safe)
        return os.open(path, os.O_RDWR | os.O_CREAT | safe, 0o644)
    except OSError as error:
        raise InputError(
            f"{path}: the lock of a device cannot be opened ({error.strerror}). Remedy: set DEPT_LOCKS to a folder "
            "that all workers of this machine can write"
        ) from error


def _whose(cuda: bool, names: Sequence[str]) -> str:
    """The processes that hold them, as far as their files tell."""
    found = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(_file(cuda, name).read_text()))
    return f" (by process {', '.join(map(str, found))})" if found else ""


def _use(got: Devices) -> None:
    if got.cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(got.names)
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as `gpus` counts them
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    threads, slots = settings().cpu_threads, settings().cpu_slots
    if threads is None and (slots == 1 or "OMP_NUM_THREADS" in os.environ):
        return
    threads = threads or max(1, len(os.sched_getaffinity(0)) // slots)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
