"""Job templates of work pools, from one file for all of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def templates(file: Path, pools: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The base job template of each pool, as Prefect takes it.

    The file holds one template, and under `defaults_of` what variables are by default in a pool where that differs.

    Raises:
        OSError: it cannot be read.
        ValueError: no JSON object, or a default of a variable that the template does not have.
    """
    body = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(body, dict) or "variables" not in body:
        raise ValueError(f"{file} is no job template: it has no variables")
    own = body.pop("defaults_of", {})
    return {pool: _with_defaults(body, own.get(pool, {}), file) for pool in pools}


def _with_defaults(body: dict[str, Any], defaults: dict[str, Any], file: Path) -> dict[str, Any]:
    made = copy.deepcopy(body)
    for name, value in defaults.items():
        if name not in made["variables"]["properties"]:
            raise ValueError(f"{file} gives a default to {name}, which is no variable of its template")
        made["variables"]["properties"][name]["default"] = value
    return made
