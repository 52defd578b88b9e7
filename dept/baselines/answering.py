"""What can answer for a task: an adapter, several together, or a linear baseline; told apart by their folders."""

from __future__ import annotations

from pathlib import Path

from dept.adapters.adapter import Adapter
from dept.adapters.ensemble import MANIFEST as TOGETHER
from dept.adapters.ensemble import Ensemble
from dept.adapters.fits import Fits
from dept.baselines.files import MANIFEST, read_baseline
from dept.baselines.probe import Probe
from dept.baselines.regression import Regression
from dept.baselines.tfidf import Tfidf
from infra.errors import InputError

Answering = Adapter | Ensemble | Regression
_LINEAR: dict[str, type[Regression]] = {kind.method: kind for kind in (Probe, Tfidf)}


def load_answering(folder: str | Path) -> Answering:
    """What a folder holds.

    Raises:
        InputError: a baseline that changes the backbone, and so cannot be served; or see `Adapter.load`,
            `Ensemble.load` and `Regression.load`.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        method = str(read_baseline(folder)[0].get("method"))
        if method not in _LINEAR:
            raise InputError(f"baseline {folder}: {method} changes the backbone, so it cannot answer beside adapters")
        return _LINEAR[method].load(folder)
    return Ensemble.load(folder) if (folder / TOGETHER).is_file() else Adapter.load(folder)


def parts_of(answering: Answering) -> tuple[Fits, ...]:
    """What has to fit a backbone: the members of an ensemble, else the one."""
    return answering.members if isinstance(answering, Ensemble) else (answering,)
