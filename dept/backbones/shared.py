"""One backbone per process, whoever asks for it."""

from __future__ import annotations

import functools
import threading

from dept.backbones.backbone import Backbone

_load_lock = threading.Lock()


def shared_backbone(name: str, dtype: str | None = None, device: str | None = None) -> Backbone:
    """The process's one backbone of this name, type and device, loaded on first use.

    Raises:
        InputError: see `Backbone.from_pretrained`.
    """
    with _load_lock:  # a server's threads would each load it
        return _loaded(name, dtype, device)


@functools.lru_cache(maxsize=2)
def _loaded(name: str, dtype: str | None, device: str | None) -> Backbone:
    return Backbone.from_pretrained(name, dtype=dtype, device=device)
