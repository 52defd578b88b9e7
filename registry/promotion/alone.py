"""Hold a champion while it is decided about: one at a time, on all machines, for as long as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dept.trial import TrialSpec
from registry.ledger.locks import Held, LockLostError
from registry.promotion.rows import Stores


class ChampionChangedError(Exception):
    """Another process has decided meanwhile: match again."""


@contextlib.contextmanager
def alone(stores: Stores, spec: TrialSpec) -> Iterator[Held]:
    """Hold what is held while a champion is decided about; it stays held while MLflow is waited for.

    Raises:
        ChampionChangedError: another process took it over meanwhile.
        InputError: another holds it for longer than a store is waited for.
    """
    try:
        name = f"champion:{spec.task}:{spec.backbone_id}"
        with stores.ledger.lock(name) as held, stores.tracker.waiting(held.waits):
            yield held
    except LockLostError as error:
        raise ChampionChangedError(str(error)) from error
