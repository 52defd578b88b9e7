"""Start processes that outlive this one, know them again, and stop these and no others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.identity import host_prefix, is_gone, process_id

MARK = "DEPT_SERVICE"  # environment variable that every process of a service inherits
# SIGINT and SIGTERM stay ignored in what a non-interactive shell starts with `&`; a Prefect worker would then never
# stop. A Python that starts with the default actions installs its own handlers, so reset them and become the command.
_LAUNCH = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Record:
    """What is remembered of a started process. `id`: see `infra.identity.process_id`; `url` is None for a worker."""

    name: str
    pid: int
    id: str
    mark: str
    log: str
    url: str | None = None


def spawn(
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    token: str,
    url: str | None = None,
) -> Record:
    """Start `command` in a session of its own, with its output appended to `log`."""
    mark = f"{token}:{name}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *command],
            env={**env, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Record(name, child.pid, process_id(child.pid), mark, str(log), url)


def leader(record: Record) -> psutil.Process | None:
    """The recorded process if it still runs; None if it is gone or its number now belongs to another process."""
    if not record.id.startswith(host_prefix()) or is_gone(record.id):  # of another machine, or from before a boot
        return None
    try:
        return psutil.Process(record.pid)
    except psutil.NoSuchProcess:
        return None


def members(record: Record) -> list[psutil.Process]:
    """Every process that carries the record's mark: the leader, its children, and children that lost their parent."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == record.mark:
                found.append(process)
    return found


def stop(record: Record, *, leader_first: float = 0.0, grace: float = 15.0) -> bool:
    """Ask the leader to end, then the others, then kill what is left after `grace` seconds. True if any ran.

    With `leader_first` the leader gets that many seconds alone: a worker told to end takes no more flow runs and
    notes how the running ones ended. It is signalled once only, since a second SIGTERM makes a Prefect worker
    kill itself.
    """
    first = leader(record)
    if first is None and not members(record):
        return False
    signalled = set()
    if first is not None:
        _terminate(first)
        signalled.add(first.pid)
        if leader_first:
            _wait(record, leader_first)
    deadline = time.monotonic() + grace
    while (rest := _living(record)) and time.monotonic() < deadline:
        for process in rest:  # a dying leader may still have started one more, hence in the loop
            if process.pid not in signalled:
                _terminate(process)
                signalled.add(process.pid)
        time.sleep(0.1)
    while rest := _living(record):
        for process in rest:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    return True


def tail(log: str | Path, lines: int = 15) -> str:
    """Last lines of a log, indented, for an error message."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-lines:]
    except OSError:
        text = []
    return "\n".join(f"    {line}" for line in text) or "    (empty)"


def _living(record: Record) -> list[psutil.Process]:
    _reap(record.pid)
    rest = {process.pid: process for process in members(record)}
    first = leader(record)
    if first is not None:
        rest.setdefault(first.pid, first)
    return list(rest.values())


def _wait(record: Record, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while leader(record) is not None and time.monotonic() < deadline:
        _reap(record.pid)
        time.sleep(0.1)


def _terminate(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.terminate()


def _reap(pid: int) -> None:
    """Take the exit status if it is a child of this very process (up and down in one process, as in tests)."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
