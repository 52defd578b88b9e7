"""Ledger and MLflow for commands that only read: what is not there yet is not made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infra.settings import home, settings

if TYPE_CHECKING:
    from registry.ledger import Ledger
    from registry.tracking import Tracker


def ledger() -> Ledger | None:
    """The ledger; None where its SQLite file does not exist yet.

    Raises:
        InputError: a ledger that cannot be opened.
    """
    url = settings().ledger_url
    if not _there(url, home() / "ledger.db"):
        return None
    from registry.ledger import Ledger

    return Ledger.open(url)


def has_tracking() -> bool:
    """Whether there is an MLflow to ask: a server, or a database file that exists."""
    return _there(settings().mlflow_tracking_uri, home() / "mlflow.db")


def tracker() -> Tracker | None:
    """MLflow; None where there is none yet.

    Raises:
        InputError: a store that does not answer.
    """
    if not has_tracking():
        return None
    from registry.tracking import Tracker

    return Tracker()


def _there(url: str | None, usual: Path) -> bool:
    """Whether a database may be opened without making it; one that names no file is refused when it is opened."""
    if url is None:
        return usual.is_file()
    kind, _, file = url.partition(":///")
    return kind not in ("sqlite", "sqlite+pysqlite") or not file or Path(file.partition("?")[0]).exists()
