"""A process by a name that no other process ever has, so that its death is seen at once on its own machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil


def process_id(pid: int | None = None) -> str:
    """This process, or another that runs here, as "host:boot:pidns:pid:start".

    boot: the kernel's id of this boot. pidns: the namespace of process ids, so that two containers that share a host
    name and a kernel are told apart. start: clock ticks since boot, which no setting of the clock moves. Where there is
    no /proc, boot and pidns are "-" and start is in hundredths of seconds since the epoch.

    Raises:
        psutil.NoSuchProcess: nothing runs here under that number.
    """
    pid = os.getpid() if pid is None else pid
    return f"{_here()}:{pid}:{_start(pid)}"


def host_prefix() -> str:
    """The part of `process_id` that all processes share whose death can be seen from here; ends with a colon."""
    return f"{_here()}:"


def is_gone(name: str) -> bool:
    """Whether `name` was a process of this machine that no longer runs; False where that cannot be known from here.

    A process id that was given to another process counts as gone; so does a zombie.
    """
    here, _, rest = name.rpartition(":")
    here, _, number = here.rpartition(":")
    if here != _here() or not number.isdecimal() or not rest.isdecimal():
        return False  # elsewhere, or not a name that `process_id` made: only a lease can tell
    pid, visible = int(number), True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        visible = False  # it runs, as another user, whose processes may not be shown
    except OverflowError:
        return False
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        start = _start(pid)
    except psutil.NoSuchProcess:
        return visible
    except (psutil.Error, OSError):
        return False
    return abs(start - int(rest)) > (0 if _ticks(os.getpid()) is not None else 200)


def _here() -> str:
    return f"{socket.gethostname()}:{_boot()}:{_namespace()}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"


def _start(pid: int) -> int:
    ticks = _ticks(pid)
    return round(psutil.Process(pid).create_time() * 100) if ticks is None else ticks


def _ticks(pid: int) -> int | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(line.rpartition(")")[2].split()[19])  # the name before it may hold spaces and brackets
