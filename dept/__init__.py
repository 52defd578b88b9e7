"""DePT adapters on a frozen backbone: trained many at once as a stack, scored and served together.

What is named here is the public API; each part is imported when it is first used, so `import dept` costs nothing.

    from dept import Adapter, AdapterConfig, Backbone, Request, Trial, TrainConfig, generate, score, train

`help(dept.train)` shows a first training, `help(dept.score)` how its adapter is asked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PLACES = {
    "Adapter": "dept.adapters.adapter",
    "AdapterConfig": "dept.config",
    "Backbone": "dept.backbones.backbone",
    "PictureMap": "dept.config",
    "Request": "dept.engine.evaluate",
    "TrainConfig": "dept.config",
    "Trial": "dept.engine.state",
    "generate": "dept.engine.generate",
    "score": "dept.engine.evaluate",
    "train": "dept.engine.train",
}

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Backbone",
    "PictureMap",
    "Request",
    "TrainConfig",
    "Trial",
    "generate",
    "score",
    "train",
]

if TYPE_CHECKING:
    from dept.adapters.adapter import Adapter
    from dept.backbones.backbone import Backbone
    from dept.config import AdapterConfig, PictureMap, TrainConfig
    from dept.engine.evaluate import Request, score
    from dept.engine.generate import generate
    from dept.engine.state import Trial
    from dept.engine.train import train


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dept' has no attribute {name!r}; it has {', '.join(__all__)}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
