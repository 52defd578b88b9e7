"""Whether the work of this process is to end: asked beside the work every few seconds, heard between its steps.

No Prefect here: whoever begins the work gives what is to be asked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from infra.errors import InputError
from infra.identity import process_id
from registry.ledger import Ledger

LOOK_SECONDS = 2.0  # between two looks: 10 s after a click the last worker is to be gone


class StoppedError(Exception):
    """This process is to end: its flow run was cancelled, suspended, or given to another process."""


class ReplacedError(StoppedError):
    """Another process is the controller of this run now: nothing of it is this one's to end."""


class RunEndedError(Exception):
    """The run that is worked for was ended: cancelled, suspended or failed. What is pending stays pending."""


Asked = Callable[[], Exception | None]  # why the work is to end; None: it goes on


class Stopping:
    """What was asked for meanwhile. `check` costs nothing and is called between steps."""

    def __init__(self, seconds: float = LOOK_SECONDS) -> None:
        self.seconds = seconds
        self._asked: list[Asked] = []
        self._found: dict[Asked, Exception] = {}
        self._over, self._watched = threading.Event(), False

    def check(self) -> None:
        """Go on, or not.

        Raises:
            StoppedError: this process is to end. RunEndedError: the run that is worked for is over.
        """
        for found in list(self._found.values()):
            raise found.with_traceback(None)

    @contextlib.contextmanager
    def asking(self, asked: Asked) -> Iterator[None]:
        """Ask this, too, while the block runs; at once, before anything is begun."""
        if found := asked():
            raise found
        self._asked.append(asked)
        try:
            yield
        finally:
            self._asked.remove(asked)
            self._found.pop(asked, None)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look every few seconds, in a thread, while the block runs; within such a block nothing more is done."""
        if self._watched:
            yield
            return
        self._watched = True
        self._over.clear()
        thread = threading.Thread(target=self._look, name="dept-stopping", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._watched = False
            self._over.set()
            thread.join(timeout=1.0)  # it may wait for a server that is away

    def _look(self) -> None:
        while not self._over.wait(self.seconds):
            for asked in list(self._asked):
                with contextlib.suppress(ConnectionError, InputError):  # who does not answer has not said stop
                    if asked not in self._found and (found := asked()) and asked in self._asked:
                        self._found[asked] = found


def ended(ledger: Ledger, run_id: str) -> Asked:
    """Ask whether a run that was under way is over."""

    def ask() -> Exception | None:
        row = ledger.run(run_id)
        if row is None or row.status == "running":
            return None
        return RunEndedError(f"run {run_id[:12]} ({row.name}) is {row.status}: its controller has ended")

    return ask


def replaced(ledger: Ledger, run_id: str) -> Asked:
    """Ask a controller's question: is the run still under way, and still this process's?"""
    mine, over = process_id(), ended(ledger, run_id)

    def ask() -> Exception | None:
        row = ledger.run(run_id)
        if row is not None and row.owner != mine:
            return ReplacedError(f"run {run_id[:12]} ({row.name}) has another controller now: {row.owner}")
        return over()

    return ask
