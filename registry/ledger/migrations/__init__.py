"""Alembic migrations of the ledger, shipped with the package; `Ledger.open` runs them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text

from infra.errors import InputError

VERSION_TABLE = "dept_alembic_version"  # MLflow has an alembic_version of its own, and may use the same database
_OLD_TABLE, _OLD_REVISION = "alembic_version", "0001"  # of 0.1.0


def config() -> Config:
    """Alembic's configuration; no ini file is needed."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return made


def revision(connection: Connection) -> str | None:
    """The revision that a database is at; None for one without a ledger."""
    found: str | None = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
    return found


def is_current(connection: Connection) -> bool:
    """Whether the database is at the newest revision.

    Raises:
        InputError: the database is of a newer version of this product.
    """
    script = ScriptDirectory.from_config(config())
    found = revision(connection)
    if found is not None:
        try:
            script.get_revision(found)
        except CommandError as error:
            raise InputError(
                f"ledger: its revision {found} is unknown here; a newer dept-transfer wrote it. "
                "Remedy: upgrade dept-transfer, or give another ledger URL"
            ) from error
    return found == script.get_current_head()


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, in the connection's transaction."""
    _adopt(connection)
    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def downgrade(connection: Connection, to: str = "base") -> None:
    """Take the database back to a revision, in the connection's transaction; for tests and for emergencies."""
    settings = config()
    settings.attributes["connection"] = connection
    command.downgrade(settings, to)


def _adopt(connection: Connection) -> None:
    """A ledger of 0.1.0 noted its revision in Alembic's default table: note it in ours instead."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables or not {_OLD_TABLE, "trials", "decisions"} <= set(tables):
        return
    if connection.execute(text(f"select version_num from {_OLD_TABLE}")).scalars().all() != [_OLD_REVISION]:
        return  # another program's
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(ScriptDirectory.from_config(config()), _OLD_REVISION)
    connection.execute(text(f"drop table {_OLD_TABLE}"))
