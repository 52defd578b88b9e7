"""A log file for each run: what was asked, what was done, and the traceback if it ended badly."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.cli.terminal import LOG, level
from infra.secrets import masked

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


@contextlib.contextmanager
def run_log(name: str, asked: Mapping[str, Any]) -> Iterator[Path]:
    """Keep log lines in $DEPT_HOME/logs/<name>-<time>.log while the block runs; yields the path.

    The file is made with the first line that is worth it: a plan that is refused leaves nothing behind. Of the
    product every line from INFO on is kept, of other libraries warnings.
    """
    from prefect.logging.configuration import setup_logging

    from infra.settings import home

    setup_logging()  # the first flow run would do it, and take our handler away
    began = time.monotonic()
    path = home() / "logs" / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}.log"
    handler = _Late(path)
    handler.setFormatter(_Masked(LINE))
    handler.hold(f"dept {' '.join(sys.argv[1:])}", f"asked for: {dict(asked)}")
    # Prefect sets the levels of root anew with each flow run, so lines of our own do not go through it.
    before = LOG.level, LOG.propagate
    LOG.setLevel(min(level(), logging.INFO))
    LOG.propagate = False
    handlers: list[logging.Handler] = [handler]
    if level() < logging.WARNING:
        shown = logging.StreamHandler()
        shown.setLevel(level())
        shown.setFormatter(_Masked(LINE))
        handlers.append(shown)
    for one in handlers:
        LOG.addHandler(one)
    logging.getLogger().addHandler(handler)
    try:
        yield path
        LOG.info("done in %.0f s", time.monotonic() - began)
    except BaseException as error:
        if path.exists():  # something was done; else the one line in the terminal says it all
            LOG.error("ended by %s", type(error).__name__, exc_info=True)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        for one in handlers:
            LOG.removeHandler(one)
            one.close()
        LOG.setLevel(before[0])
        LOG.propagate = before[1]


class _Late(logging.FileHandler):
    """A file that is opened with its first line, after lines that were held for its head."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.held: list[str] = []

    def hold(self, *lines: str) -> None:
        """Lines for the head of the file."""
        self.held += lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if record.levelno < logging.INFO:
            return
        if self.held:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            lines, self.held = self.held, []
            for line in lines:
                super().emit(logging.LogRecord("flows", logging.INFO, "", 0, line, None, None))
        super().emit(record)
