"""What a server may be asked at once: one request runs at a time, and what would take too long is refused at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE

from infra.settings import settings

TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # seconds; `mlflow models serve` sets it for its processes
SHARE = 0.8  # of the time that the server gives a request
_REMEMBERED = 16  # requests whose speed is known
_LEAST = 64.0  # tokens of a request that tells a speed; smaller ones mostly cost their fixed part


class RefusedError(MlflowException):
    """What is wrong with a request, in one line that stays the first: MLflow writes the data in front otherwise."""

    def __init__(self, line: str, code: int = BAD_REQUEST) -> None:
        self._line: str | None = None
        super().__init__(line, error_code=code)

    @property
    def message(self) -> str:
        """The line that it was made with."""
        return self._line or ""

    @message.setter
    def message(self, value: str) -> None:
        if self._line is None:
            self._line = value


class Gate:
    """Lets requests through one after the other, as fast as the machine has been of late.

    Only a server refuses: who calls a model in Python waits for as many rows as they give.
    """

    def __init__(self) -> None:
        self._running, self._counting = threading.Lock(), threading.Lock()
        self._speeds: deque[float] = deque(maxlen=_REMEMBERED)
        self._ahead = 0.0  # tokens of requests that run or wait

    @property
    def speed(self) -> float | None:
        """Tokens a second, the best of late; None before the first request."""
        return max(self._speeds, default=None)

    @contextlib.contextmanager
    def passing(self, rows: int, tokens: float, teaches: bool = True) -> Iterator[None]:
        """Hold the gate while a request of so many rows runs, about so many tokens in all.

        Args:
            teaches: its time tells the machine's speed.

        Raises:
            RefusedError: more than can be answered in the time the server gives, or too busy.
        """
        with self._counting:
            if is_server():
                self._check(rows, tokens)
            self._ahead += tokens
        try:
            with self._running:
                began = time.monotonic()
                yield
                if (teaches and tokens >= _LEAST) or not self._speeds:
                    self._speeds.append(tokens / max(time.monotonic() - began, 1e-6))
        finally:
            with self._counting:
                self._ahead -= tokens

    def check_rows(self, rows: int) -> None:
        """Refuse more rows than a server takes, before anything is made of them.

        Raises:
            RefusedError: there are more.
        """
        most = settings().serve_rows
        if is_server() and rows > most:
            raise RefusedError(f"predict: {rows} rows; this server takes {most} at once. Remedy: send them in parts")

    def _check(self, rows: int, tokens: float) -> None:
        if self.speed is None:
            return
        given = SHARE * float(os.environ[TIMEOUT])
        needed = tokens / self.speed
        if needed > given:
            fit = max(1, int(rows * given / needed))
            raise RefusedError(
                f"predict: {rows} rows would take about {needed:.0f} s, more than this server gives a request. Remedy: "
                f"send at most {fit} of them at once, or serve with a longer --timeout"
            )
        if needed + self._ahead / self.speed > given:
            raise RefusedError("predict: too many requests wait already. Remedy: try again", TEMPORARILY_UNAVAILABLE)


def is_server() -> bool:
    """Whether this process is one of `mlflow models serve`."""
    return TIMEOUT in os.environ
