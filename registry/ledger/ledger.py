"""The ledger: what is to be done, what is being done and by whom, what came of it. One row per trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from infra.settings import home, settings
from registry.ledger.database import open_engine
from registry.ledger.decisions import Decisions
from registry.ledger.locks import Locks
from registry.ledger.own_tasks import OwnTasks
from registry.ledger.queries import Queries
from registry.ledger.runs import Runs
from registry.ledger.workers import Workers
from registry.ledger.writes import Writes


class Ledger(Workers, Writes, Queries, Runs, OwnTasks, Decisions, Locks):
    """Trials, runs, own tasks, decisions and locks in one database. Safe from many threads, processes and machines.

    A trial goes pending -> running -> trained (its adapter is durable) -> finished (its MLflow run is closed), or
    failed. A claim raises the trial's attempt; each later write names it, so that what a late worker writes changes
    nothing. A kill at any point leaves a state from which `claim` goes on. Times are the database's.

    Each call waits for a database that is away for a while, and says so once; see `registry.ledger.connection`.
    """

    @classmethod
    def open(cls, url: str | None = None, on_wait: Callable[[str], None] | None = None) -> Self:
        """Open a ledger and bring its tables up to date.

        Args:
            url: SQLAlchemy URL; default $DEPT_LEDGER_URL, else the SQLite file home()/ledger.db.
            on_wait: told when the database is away in mid-run, and when it is back; default a warning in the log.

        Raises:
            InputError: see `registry.ledger.database.open_engine`.
        """
        return cls(open_engine(url or settings().ledger_url or f"sqlite:///{home() / 'ledger.db'}"), on_wait)
