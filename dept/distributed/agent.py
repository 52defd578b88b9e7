"""The parent's side of a session: hand the ranks one job after the other and wait for each."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dept.distributed import job, processes
from infra.errors import InputError, WorkerDiedError

POLL_SECONDS = 0.1
STOP_SECONDS = 20.0  # that ranks may take to end by themselves
LOG_LINES = 25


class RankDiedError(WorkerDiedError):
    """A rank ended before its work was done; the message holds the last lines of the ranks' log."""


class Agent:
    """Ranks that start with the first job. Folder and errors: see `dept.distributed.launch.Session`."""

    def __init__(self, folder: Path, settings: job.Settings, cuda: bool) -> None:
        self.folder, self.settings, self.cuda = folder, settings, cuda
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = self._tokens = 0

    def do(
        self,
        write: Callable[[Path], None],
        look: Callable[[Path], None] = lambda _: None,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Write a job, start the ranks if they are not there, and wait for its end; `look` is called meanwhile."""
        work = job.folder_of(self.folder, self._jobs)
        try:
            if self._jobs == 0:
                job.open_session(self.folder, self.settings)
            write(work)
        except OSError as error:
            raise InputError(
                f"engine deepspeed: cannot write {self.folder} ({error}). Remedy: free space or choose another "
                "DEPT_HOME"
            ) from error
        if self._jobs == 0:
            self._process = processes.start(self.folder, self.settings.ranks, self.cuda)
        self._jobs += 1
        try:
            self._wait(work, look, progress)
        except BaseException:
            self.close(clean=False)
            raise
        return work

    def _wait(self, work: Path, look: Callable[[Path], None], progress: Callable[[int], None] | None) -> None:
        while True:
            # Before the look into the folder, so that what the ranks wrote last is seen.
            code, done = self._process.poll() if self._process else -1, (work / job.DONE).is_file()
            total = _tokens(self.folder)
            if progress is not None and total > self._tokens:
                progress(total - self._tokens)
            self._tokens = max(total, self._tokens)
            look(work)
            if done:
                return
            if code is not None:
                break
            time.sleep(POLL_SECONDS)
        if (self.folder / job.ERROR).is_file():
            raise InputError(job.read_json(self.folder / job.ERROR)["input_error"])
        raise RankDiedError(
            f"a rank died in the middle of its work (torchrun ended with {code}); the others are stopped. "
            f"Log: {self.folder / job.LOG}\n{_tail(self.folder)}"
        )

    def close(self, clean: bool = True) -> None:
        """Let the ranks end; `clean`: what they need no more is removed."""
        agent, self._process = self._process, None
        if agent is None:
            return
        try:
            if clean:
                (self.folder / job.STOP).touch()
                agent.wait(STOP_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            processes.end(agent)
        if clean:
            job.close_session(self.folder)


def _tokens(folder: Path) -> int:
    try:
        return int(job.read_json(folder / job.PROGRESS)["tokens"])
    except FileNotFoundError:
        return 0


def _tail(folder: Path) -> str:
    lines = (folder / job.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])
