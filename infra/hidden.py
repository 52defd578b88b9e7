"""Credentials reach no log and no page of a flow run."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator

from infra.errors import InputError
from infra.secrets import masked


class Mask(logging.Filter):
    """Masks a log record in place: message, arguments and traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps every record."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            return True  # logging itself will report the wrong arguments
        if (hidden := masked(text)) != text:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[1] is not None:
            told = record.exc_text or "".join(traceback.format_exception(*record.exc_info))
            if (hidden := masked(told)) != told:
                record.exc_info, record.exc_text = None, hidden.rstrip()
        return True


def mask_logs() -> None:
    """Let every handler that is there now mask what it writes; calling it again adds nothing."""
    known: set[logging.Handler] = set(logging.getLogger().handlers)
    for logger in list(logging.Logger.manager.loggerDict.values()):
        known |= set(logger.handlers) if isinstance(logger, logging.Logger) else set()
    for handler in known:
        if not any(isinstance(one, Mask) for one in handler.filters):
            handler.addFilter(Mask())


@contextlib.contextmanager
def hidden_credentials() -> Iterator[None]:
    """For the body of a flow: logs are masked, and an error that would show a credential is raised without it.

    Prefect stores an error's text with the flow run, where everyone who sees the page can read it.

    Raises:
        RuntimeError: in place of an error whose text, or the text of one behind it, holds a credential; an InputError
            stays one.
    """
    mask_logs()
    try:
        yield
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        if masked(told) == told:
            raise
        if isinstance(error, InputError):  # its own text is masked; what stands behind it was not
            raise InputError(error) from None
        raise RuntimeError(f"{type(error).__name__}: {masked(error)}") from None
