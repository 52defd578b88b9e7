"""Progress of a long part on the page of its flow run: an artifact with the share that is done, and lines in its log.

What is told is sent by a thread, at most every ten seconds: neither a slow server nor one that is away holds up the
work, and a part that is over sooner costs one line.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from infra.names import slug
from infra.prefect_api import client

EVERY = 10.0  # seconds between two updates
ASK_SECONDS = 5.0


class ProgressPage:
    """One part on the page of the flow run, or of the task run within it, that the caller is in.

    Args:
        what: the part, for people. told: the percentage done, and a line about it, as they are now.
    """

    def __init__(self, what: str, told: Callable[[], tuple[float, str]]) -> None:
        from prefect import get_run_logger
        from prefect.context import FlowRunContext, TaskRunContext
        from prefect.settings import PREFECT_API_URL

        self.what, self.told = what, told
        flow, part = FlowRunContext.get(), TaskRunContext.get()
        self._ids: dict[str, Any] = {
            "flow_run_id": flow.flow_run.id if flow and flow.flow_run else None,
            "task_run_id": part.task_run.id if part else None,
        }
        self._api, self._log = PREFECT_API_URL.value(), get_run_logger()
        self._made: UUID | None = None  # the artifact
        self._over = threading.Event()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Tell of the part while the block runs."""
        thread = threading.Thread(target=contextvars.copy_context().run, args=(self._tell,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(timeout=ASK_SECONDS)
            percent, line = self.told()
            self._log.info("%s: %s", self.what, line)
            if self._made is not None:
                self._send(percent, line)

    def _tell(self) -> None:
        while not self._over.wait(EVERY):
            percent, line = self.told()
            self._log.info("%s: %.0f%%, %s", self.what, percent, line)
            self._send(percent, line)

    def _send(self, percent: float, line: str) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        body, text = round(percent, 1), f"{self.what}: {line}"
        with contextlib.suppress(ConnectionError), client(self._api, ASK_SECONDS, retries=0) as asked:
            if self._made is None:
                new = ArtifactCreate(
                    type="progress", key=f"progress-{slug(self.what)}", data=body, description=text, **self._ids
                )
                self._made = asked.create_artifact(new).id
            else:
                asked.update_artifact(self._made, ArtifactUpdate(data=body, description=text))
