"""Requests to MLflow that outlast its absence: waited for with growing pauses, and never carried out twice."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from infra.errors import InputError
from infra.secrets import masked
from registry.ledger.connection import LAST_SECONDS

LONGEST_PAUSE = 10.0  # seconds between two attempts
_AWAY = frozenset({408, 429, 500, 502, 503, 504})  # answers of a server or proxy that may be there again soon
# Errors of a database that no waiting mends.
_LASTING = ("readonly database", "no such table", "not a database", "malformed", "disk is full", "permission denied")
_CODE = re.compile(r"failed with error code (\d+)")
_SYSTEM = re.compile(r"\[Errno -?\d+\] ([\w ]+)")
_log = logging.getLogger(__name__)


class Patience:
    """Repeats a request while MLflow does not answer; says so once, and once more when it answers again.

    After a request was waited for in vain the next are hardly waited for, until one is answered.

    Args:
        uri: whose answers are waited for; shown without credentials.
        seconds: how long one request waits in all.
    """

    def __init__(self, uri: str, seconds: float) -> None:
        self.uri, self.seconds = uri, seconds
        self._on_wait: Callable[[], object] | None = None
        self._silent_since: float | None = None
        self._in_vain = False

    @contextlib.contextmanager
    def waiting(self, on_wait: Callable[[], object]) -> Iterator[None]:
        """Within it, `on_wait` is called before every request and each pause of it; so is that of a block around it."""
        before = self._on_wait

        def both() -> None:
            if before is not None:
                before()
            on_wait()

        self._on_wait = both
        try:
            yield
        finally:
            self._on_wait = before

    def hurry(self) -> None:
        """Hardly wait any more: the process is about to end."""
        self.seconds = min(self.seconds, LAST_SECONDS)

    def ask(
        self,
        call: Callable[[], Any],
        found: Callable[[], Any] | None = None,
        on_wait: Callable[[], object] | None = None,
        gone: bool = False,
    ) -> Any:
        """The answer of `call`.

        Args:
            found: asked before a repetition, since an answer may be lost after the request was carried out: returns
                what the request made, or None.
            on_wait: called before each pause.
            gone: the call deletes something: a refusal of its repetition says that the first one was carried out.

        Raises:
            InputError: no answer within `seconds`.
            MlflowException: a refusal.
        """
        most = min(self.seconds, LAST_SECONDS) if self._in_vain else self.seconds

        def pause(state: RetryCallState) -> None:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
                error = state.outcome.exception() if state.outcome else None
                _log.warning(
                    "MLflow %s does not answer (%s); waiting for it, up to %.0f s",
                    masked(self.uri),
                    _cause(error),
                    most,
                )
            for told in (self._on_wait, on_wait):
                if told is not None:
                    told()

        repeated = False

        def attempt() -> Any:
            nonlocal repeated
            if self._on_wait is not None:
                self._on_wait()
            if repeated and found is not None and (made := found()) is not None:
                return made
            try:
                return call()
            except MlflowException as error:
                if gone and repeated and not is_silence(error):
                    return None
                raise
            finally:
                repeated = True

        try:
            answer = Retrying(
                stop=stop_after_delay(most),
                wait=wait_random_exponential(0.5, max=LONGEST_PAUSE),
                retry=retry_if_exception(is_silence),
                before_sleep=pause,
            )(attempt)
        except RetryError as failed:
            self._in_vain = True
            error = failed.last_attempt.exception()
            raise InputError(
                f"MLflow {masked(self.uri)} does not answer ({_cause(error)}). Remedy: start the server or mend "
                "its URI; adapters and numbers are safe in the ledger and the next run logs them"
            ) from None
        except BaseException as interrupt:
            if not isinstance(interrupt, Exception):
                self.hurry()  # what is undone on the way out need not wait as long again
            raise
        self._in_vain = False
        if self._silent_since is not None:
            _log.warning("MLflow answers again, after %.0f s", time.monotonic() - self._silent_since)
            self._silent_since = None
        return answer


def is_silence(error: BaseException) -> bool:
    """Whether MLflow, or what it stands on, is away; False for a refusal, which no waiting changes."""
    if isinstance(error, HTTPError):  # of the upload of a file
        return error.response is not None and error.response.status_code in _AWAY
    if isinstance(error, MlflowException):
        said = str(error)
        if any(lasting in said for lasting in _LASTING):
            return False
        if error.error_code == "TEMPORARILY_UNAVAILABLE" or "failed with exception" in said:
            return True
        code = _CODE.search(said)
        return code is not None and int(code[1]) in _AWAY
    return isinstance(error, (ConnectionError, requests.ConnectionError, requests.Timeout))


def _cause(error: BaseException | None) -> str:
    """What the system said, such as Connection refused, out of the libraries' tale of it; else the first line."""
    found = _SYSTEM.search(str(error))
    return found[1].strip() if found else first_line(error)


def first_line(error: BaseException | None) -> str:
    """What an error says, short and without credentials."""
    said = str(error).strip() or type(error).__name__
    return masked(said.splitlines()[0])[:300]
