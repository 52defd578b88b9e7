"""What can answer for a task: an adapter, a linear baseline, or several together; told apart by their folders."""

from __future__ import annotations

from pathlib import Path

from dept.baselines.ensemble import MANIFEST, Ensemble
from dept.baselines.single import Single, load_single

Answering = Single | Ensemble


def load_answering(folder: str | Path) -> Answering:
    """What a folder holds.

    Raises:
        InputError: see `dept.baselines.single.load_single` and `Ensemble.load`.
    """
    folder = Path(folder)
    return Ensemble.load(folder) if (folder / MANIFEST).is_file() else load_single(folder)


def members_of(answering: Answering) -> tuple[Single, ...]:
    """Those that answer: one, or several together. Each has to fit the backbone."""
    return answering.members if isinstance(answering, Ensemble) else (answering,)


def seers_of(answering: Answering) -> tuple[Single, ...]:
    """Those of them that see a row's picture, where others read its text alone."""
    return tuple(one for one in members_of(answering) if one.metadata.get("picture"))


def weights_of(answering: Answering) -> tuple[float, ...] | None:
    """Their weights in the mean (`dept.readout.mean_answers`); None: all alike."""
    return answering.weights if isinstance(answering, Ensemble) else None
