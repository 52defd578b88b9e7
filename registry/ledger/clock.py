"""The database's own clock in SQL. No host's clock is ever asked: a worker whose clock is wrong harms nobody."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement, literal

from registry.ledger.types import UtcDateTime


class _Now(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True
    name = "now_plus"


def now(seconds: float = 0.0) -> ColumnElement[datetime]:
    """The database's time at the start of the statement, and `seconds` more."""
    return _Now(literal(float(seconds)))


@compiles(_Now, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    # The very form in which SQLAlchemy keeps times in SQLite, so that texts compare as times do.
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {seconds} || ' seconds')"


@compiles(_Now, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"
