"""An adapter's map of pictures: patches of pixels, each through a trained linear map to a vector before the text.

v_i = x_i @ W (@ W_out) + place_i        x_i [f], W [f, d], or [f, k] and W_out [k, d]; place [n, d]

x_i are the pixels of a patch less the picture's mean colour, and that colour, all divided by sqrt(f). What differs in a
picture is so learned in a fraction of the steps that plain pixels take, and one rate does for patches of every size.

The patch projection of a vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1) before a frozen
language model, which sees pictures by its vectors alone (as in Tsimpoukelli et al. 2021, arXiv 2106.13884).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.picture_cache import Kept
from dept.config import PictureMap
from infra.errors import InputError
from tasks.picture_reader import read_picture
from tasks.pictures import Picture

NAMES = ("picture_in", "picture_out", "picture_place")
MOST_KEPT, SHAPES = 1 << 28, 4  # bytes of pixels that are kept of a shape, and shapes
_kept: dict[tuple[int, int], Kept[Tensor]] = {}


@dataclass
class SeenBy:
    """The map of one adapter.

    Attributes:
        config: what it reads. inside: W [f, d or k]. out: W_out [k, d]; [0, d] where W is full. place: [n, d].

    Raises:
        InputError: shapes that do not fit together, or not to the config.
    """

    config: PictureMap
    inside: Tensor
    out: Tensor
    place: Tensor

    def __post_init__(self) -> None:
        n, d = self.place.shape
        rank = self.config.rank
        found = [list(part.shape) for part in (self.inside, self.out)]
        if n != self.config.positions or found != [[self.config.features, rank or d], [rank, d]]:
            raise InputError(f"adapter: a picture map's shapes do not fit: {found} and place [{n}, {d}], {self.config}")

    @classmethod
    def started(cls, config: PictureMap, prompt: Tensor, seed: int) -> SeenBy:
        """The map that training starts from; drawn on the CPU, so that every device starts alike.

        Args:
            prompt: P [m, d]; vectors are about as large as its.
        """
        draw, d = torch.Generator().manual_seed(seed), prompt.shape[1]
        size = float(prompt.float().std())
        inside = torch.randn(config.features, config.rank or d, generator=draw)
        out = torch.randn(config.rank, d, generator=draw) / math.sqrt(max(1, config.rank)) * size
        return cls(config, inside if config.rank else inside * size, out, torch.zeros(config.positions, d))

    def named(self) -> dict[str, Tensor]:
        """Its tensors by the names that files and stacks have for them."""
        return dict(zip(NAMES, (self.inside, self.out, self.place), strict=True))

    @classmethod
    def of(cls, named: Mapping[str, Tensor], config: PictureMap | None) -> SeenBy | None:
        """The map whose tensors `named` gave; None where there are none."""
        return None if config is None else cls(config, *(named[name] for name in NAMES))


class Stacked(Protocol):
    """The maps of a stack: picture_in [N, f, d or k], picture_out [N, k, d], picture_place [N, n, d]."""

    picture_in: Tensor | None
    picture_out: Tensor | None
    picture_place: Tensor | None


class Looking(Protocol):
    """Who looks at what, each [V]: adapter, picture, and the number of the place in it."""

    owner: Tensor
    which: Tensor
    index: Tensor


def mapped(features: Tensor, looking: Looking, maps: Stacked) -> Tensor:
    """Vectors [V, d], float32, of pictures as adapters see them.

    Args:
        features: of each picture [K, n, f].
    """
    inside, out, place = (getattr(maps, name) for name in NAMES)
    parts, places = [], []
    for one in looking.owner.unique().tolist():
        mine = (looking.owner == one).nonzero()[:, 0]
        which, index = looking.which[mine], looking.index[mine]
        vectors = features[which, index] @ inside[one]
        vectors = vectors @ out[one] if out.shape[1] else vectors
        parts.append(vectors + functional.embedding(index, place[one]))
        places.append(mine)
    return torch.cat(parts).index_select(0, torch.cat(places).argsort())


def patches(pictures: Sequence[Picture], config: PictureMap) -> Tensor:
    """What a map reads of pictures, [K, n, f], patches row by row from the upper left; each is read once a process.

    Raises:
        InputError: a picture that is gone, has changed, or cannot be read.
    """
    pixels = (torch.stack(look(pictures, config)).float() / 127.5 - 1).unflatten(2, (-1, 3))
    mean = pixels.mean((1, 2), keepdim=True)
    rest = (pixels - mean).flatten(2)
    return torch.cat([rest, mean[:, 0].expand(-1, rest.shape[1], -1)], dim=2) / math.sqrt(config.features)


def look(pictures: Sequence[Picture], config: PictureMap) -> list[Tensor]:
    """Pixels of each picture as they are kept, uint8 [n, 3 * pixels ** 2]. Raises InputError as `patches` does."""
    shape = config.grid, config.pixels
    kept = _kept.pop(shape, None) or Kept(MOST_KEPT)
    _kept[shape] = kept
    while len(_kept) > SHAPES:
        del _kept[next(iter(_kept))]  # that was asked for longest ago
    return kept.of(pictures, lambda missing: [_cut(picture, *shape) for picture in missing])


def _cut(picture: Picture, grid: int, pixels: int) -> Tensor:
    """uint8 [grid * grid, pixels * pixels * 3]."""
    import numpy as np
    from PIL import Image

    side = grid * pixels
    seen = read_picture(picture).resize((side, side), Image.Resampling.BICUBIC)
    cut = np.asarray(seen).reshape(grid, pixels, grid, pixels, 3).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(cut.reshape(grid * grid, -1).copy())
