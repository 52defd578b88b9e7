"""Run by Alembic, on the connection of `registry.ledger.migrations.upgrade`; its command line needs `-x url=...`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from registry.ledger.migrations import VERSION_TABLE
from registry.ledger.schema import Base


def _run(connection: Connection) -> None:
    # SQLite cannot alter most of a table in place: batch mode rebuilds it.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


_given = context.config.attributes.get("connection")
if _given is not None:
    _run(_given)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).connect() as _own:
        _run(_own)
        _own.commit()
