"""One that answers for a task by itself: an adapter, or a linear baseline; told apart by their folders."""

from __future__ import annotations

from pathlib import Path

from dept.adapters.adapter import Adapter
from dept.baselines.files import MANIFEST, read_baseline
from dept.baselines.probe import Probe
from dept.baselines.regression import Regression
from dept.baselines.tfidf import Tfidf
from infra.errors import InputError

Single = Adapter | Regression
_LINEAR: dict[str, type[Regression]] = {kind.method: kind for kind in (Probe, Tfidf)}


def load_single(folder: str | Path) -> Single:
    """What a folder holds.

    Raises:
        InputError: a baseline that changes the backbone, and so cannot answer beside others; or see `Adapter.load`
            and `Regression.load`.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return Adapter.load(folder)
    method = str(read_baseline(folder)[0].get("method"))
    if method not in _LINEAR:
        raise InputError(f"baseline {folder}: {method} changes the backbone, so it cannot answer beside adapters")
    return _LINEAR[method].load(folder)
