"""Tasks that are not in the catalogue, known outside the plan that brought them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.schema import OwnTaskRow


class OwnTasks(Connected):
    """The part of the ledger that remembers own tasks."""

    def remember_tasks(self, blocks: Mapping[str, Mapping[str, Any]], rows: Mapping[str, str] | None = None) -> None:
        """Keep the blocks of own tasks; the newest of a name counts, older ones stay for the trials that had them.

        Args:
            blocks: by name, what `tasks.spec.Task.model_dump(mode="json")` gives.
            rows: by name, the sha256 under which the task's rows lie in the store (`rows/<sha256>`).
        """
        made = [
            {
                "name": name,
                "block": dict(block),
                "block_sha256": hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest(),
                "rows_sha256": (rows or {}).get(name, ""),
            }
            for name, block in blocks.items()
        ]

        def remember(session: Session) -> None:
            query = self._insert(OwnTaskRow).values(registered_at=now())
            same = ["name", "block_sha256", "rows_sha256"]
            session.execute(query.on_conflict_do_update(index_elements=same, set_={"registered_at": now()}), made)

        if made:
            self._write(remember)

    def own_tasks(self) -> dict[str, OwnTaskRow]:
        """The newest row of each own task, by name: `.block` for `Task.model_validate`, `.rows_sha256`."""
        query = select(OwnTaskRow).order_by(OwnTaskRow.registered_at, OwnTaskRow.id)
        return self._read(lambda session: {row.name: row for row in session.scalars(query)})

    def forget_tasks(self, names: Iterable[str]) -> int:
        """Forget own tasks; returns how many blocks went."""
        wanted = list(names)

        def forget(session: Session) -> int:
            found = list(session.scalars(select(OwnTaskRow).where(OwnTaskRow.name.in_(wanted))))
            for row in found:
                session.delete(row)
            return len(found)

        return self._write(forget)
