"""Who works on a trial: a process, named so that its death is seen at once."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta

import psutil

STALE_SECONDS = 120.0  # an owner elsewhere that has been silent for longer is taken for dead
# The kernel's clock ticks and time corrections move a start time a little; a reused process id is much further off.
_START_TOLERANCE = 2.0


def owner_id() -> str:
    """This process as "host:pid:start time" (seconds since the epoch)."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def is_gone(owner: str) -> bool:
    """Whether `owner` was a process of this host that no longer runs; False where that cannot be known from here."""
    try:
        host, pid, start = owner.rsplit(":", 2)
        number, started = int(pid), float(start)
    except ValueError:
        return False  # not a name that `owner_id` made: only its heartbeat can tell
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - started) > _START_TOLERANCE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def is_dead(owner: str | None, heartbeat_at: datetime | None, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether nobody works under this name any more: no owner, a process that is gone, or a heartbeat too old."""
    if owner is None or is_gone(owner):
        return True
    return heartbeat_at is None or datetime.now(UTC) - heartbeat_at > timedelta(seconds=stale_seconds)
