"""The pictures that a self-test shows to a model, each prepared once; what its tower makes of one is not made anew.

A picture of 40 x 30 pixels is 17 tiles of 512 x 512 to SmolVLM's processor: to prepare and look at it is what a
self-test costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

SIZES = ((40, 30), (30, 40))  # pixels
_MADE = "get_image_features"  # of transformers' models: from pixels to vectors, before they stand in a row


@cache
def picture(which: int) -> Any:
    """Noise, of `SIZES[which]` (PIL, mode RGB)."""
    from PIL import Image

    draw = torch.Generator().manual_seed(which)
    width, height = SIZES[which]
    pixels = (torch.rand(height, width, 3, generator=draw) * 255).to(torch.uint8).numpy()
    return Image.fromarray(pixels)


class Prepared:
    """In place of a `processor.Processor`: prepares each `picture` once, the first of them twice.

    Raises:
        ValueError: at `inputs`, of a processor that makes other pixels of a picture each time.
    """

    def __init__(self, processor: Any) -> None:
        self._theirs, self._kept = processor, dict[int, Mapping[str, Any]]()
        self.special, self.token_id = processor.special, processor.token_id

    def block_ids(self, size: tuple[int, int]) -> tuple[int, ...]:
        """See `Processor`."""
        found: tuple[int, ...] = self._theirs.block_ids(size)
        return found

    def inputs(self, shown: Any) -> Mapping[str, Any]:
        """See `Processor`."""
        which = next(i for i in range(len(SIZES)) if picture(i) is shown)
        if which not in self._kept:
            given = self._theirs.inputs(shown)
            if which == 0 and not _alike(given, self._theirs.inputs(shown)):
                raise ValueError("its processor makes other pixels of a picture each time")
            self._kept[which] = given
        return self._kept[which]


class Tower:
    """What a model's tower has made of pixels, for passes that ask it for the same again."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []

    @contextmanager
    def once(self, model: Any) -> Iterator[None]:
        """While this lasts the model's tower is not run on what it has been given before; else it runs as ever."""
        changed = [module for module in model.modules() if hasattr(type(module), _MADE)]
        try:
            for module in changed:
                setattr(module, _MADE, self._asked(module, getattr(module, _MADE)))
            yield
        finally:
            for module in changed:
                module.__dict__.pop(_MADE, None)

    def _asked(self, module: Any, make: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*given: Any, **named: Any) -> Any:
            about = (module, given, named)
            if (known := next((made for before, made in self._made if _alike(before, about)), None)) is None:
                known = make(*given, **named)
                self._made = [*self._made, (about, known)][-2 * len(SIZES) :]  # a model within a model asks as well
            return known

        return asked


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, number by number."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)
