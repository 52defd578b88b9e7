"""What libraries say is kept off the console where it tells a user nothing, or what is told already."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

RUNS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def errors_told_by_caller() -> Iterator[None]:
    """Keep errors of flow and task runs, with their tracebacks, off the console while the block runs.

    They are raised out of the flow, so the caller shows them. A Prefect server's page of the run still gets them.
    """
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import PrefectConsoleHandler

    setup_logging()  # the first flow run would do it; only then are the handlers there
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    for handler in handlers:
        handler.addFilter(_not_a_failed_run)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_not_a_failed_run)


def _not_a_failed_run(record: logging.LogRecord) -> bool:
    return record.name not in RUNS or record.levelno < logging.ERROR


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """Keep a library's warnings off the console while the block runs: what matters is raised."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
