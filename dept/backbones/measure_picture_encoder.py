"""Whether an encoder's states stand where its pixels are, and are the same each time: measured when it is loaded."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

MOST_LEADING = 8  # states before those of places: of the class, of registers
_NEAR = 4  # a place's own pixels are among the first 1/4 of all by how much they move its state


def places_of(model: Any, pixels: Tensor) -> Tensor:
    """Last hidden states of the places of a picture, [h, h, f], from the upper left.

    Args:
        pixels: [1, c, y, y].

    Raises:
        ValueError: pixels or states that are no square of places.
    """
    if pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(f"it is given pixels {list(pixels.shape)}, and squares are read here")
    found: Tensor = model(pixel_values=pixels).last_hidden_state
    if found.ndim == 4:
        found = found.flatten(2).transpose(1, 2)  # a map of places
    side = _side(model.config, len(found[0]), pixels.shape[2])
    return found[0, -(side**2) :].reshape(side, side, -1)


def _side(config: Any, states: int, pixels: int) -> int:
    """Places in a row: by the size of patches, where that fits; else the largest square."""
    patch = getattr(config, "patch_size", None)
    told = pixels // patch if isinstance(patch, int) else 0
    for side in (told, math.isqrt(states)):
        if side and 0 <= states - side**2 <= MOST_LEADING:
            return side
    raise ValueError(f"its {states} hidden states are no square of places")


@torch.no_grad()
def measured(model: Any, pixels: Tensor) -> int:
    """The width of the states.

    Args:
        pixels: of any picture, [1, c, y, y].

    Raises:
        ValueError: states that are others each time, or that are no places of the picture (queries, groups, parts).
        Exception: whatever a model raises that cannot be asked by pixels alone.
    """
    first, again = places_of(model, pixels), places_of(model, pixels)
    if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise ValueError("its states are others each time it is asked")
    if not _in_place(_sibling(model), pixels.cpu()):
        raise ValueError("its states do not stand where its pixels are")
    return first.shape[2]


def _sibling(model: Any) -> Any:
    """A random model of the same kind, of two layers: where states stand hangs on no weight; trained ones blur it."""
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            if isinstance(getattr(config, "num_hidden_layers", None), int):
                config.num_hidden_layers = min(2, config.num_hidden_layers)
            return type(model)._from_config(config, dtype=torch.float32).eval()
        except Exception:  # a configuration of another make
            return copy.deepcopy(model).cpu()


def _in_place(model: Any, pixels: Tensor) -> bool:
    """Whether the pixels of some places move the states of these places more than those of most others."""
    first = places_of(model, pixels)
    side = len(first)
    size = pixels.shape[2] / side
    for row, column in {(0, 0), (0, side - 1), (side - 1, 0), (side // 2, side // 3)}:
        down, along = (slice(int(at * size), math.ceil((at + 1) * size)) for at in (row, column))
        other = pixels.clone()
        other[:, :, down, along] *= -1
        moved = (places_of(model, other) - first).norm(dim=2)
        if int((moved > moved[row, column]).sum()) > max(0, side**2 // _NEAR - 1):
            return False
    return True
