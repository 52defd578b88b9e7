"""Alembic migrations of the ledger, shipped with the package; `Ledger.open` runs them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from infra.errors import InputError


def config() -> Config:
    """Alembic's configuration; no ini file is needed."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return made


def is_current(connection: Connection) -> bool:
    """Whether the database is at the newest revision.

    Raises:
        InputError: the database is of a newer version of this product.
    """
    script = ScriptDirectory.from_config(config())
    found = MigrationContext.configure(connection).get_current_revision()
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
    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")
