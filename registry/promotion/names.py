"""Names of registered models. They hold the weights: models of different weights never share a name. Pure."""

from __future__ import annotations

import re
from pathlib import PurePath

CHAMPION = "champion"  # alias of the version that answers
CHALLENGER = "challenger"  # alias of the one that lost last; it goes with the next decision
ID_DIGITS = 8


def model_name(backbone: str, backbone_id: str, task: str) -> str:
    """`<task>-dept-<backbone>-<weights>`: the last part of a path or hub id, and 8 digits of the weights' sha256.

    The task comes first, since pages cut names. The same weights in a folder of another name are found by their tags,
    whatever the model is called.
    """
    return f"{task}-dept-{_short(backbone)}-{backbone_id[:ID_DIGITS]}"


def all_tasks_name(backbone: str, backbone_id: str) -> str:
    """The model that answers for every task of a backbone."""
    return model_name(backbone, backbone_id, "all-tasks")


def old_model_name(backbone: str, task: str) -> str:
    """The name that version 0.1.0 gave, which did not hold the weights."""
    return f"dept-{_short(backbone)}-{task}"


def _short(backbone: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", PurePath(backbone).name.lower()).strip("-") or "backbone"
