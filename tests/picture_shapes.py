"""What stands for a processor of pictures where types are tried: noise for pixels, in shapes that a type may take."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dept.backbones.processor import token_of, tokens_of

GRID = (1, 4, 6)  # patches by time, height and width
_PATCHES = math.prod(GRID)


class MadeUp:
    """In place of a `processor.Processor`: noise for pixels, by the sum of a picture's.

    Args:
        config: of the model.
        shape: of what a picture becomes, but for the first size, which is its share of a batch.
        share: of the first size.
        more: what else the model takes for one picture; a shape stands for noise.
        types: what token types are given for a picture's placeholders, by name.
    """

    def __init__(
        self, config: Any, shape: tuple[int, ...], share: int | None, more: Mapping[str, Any], types: Mapping[str, int]
    ) -> None:
        self.special, self.token_id = tokens_of(config.to_dict()), token_of(config.to_dict())
        self.shape, self.share, self.more, self.types = shape, share, more, types
        self.count = 1

    def block_ids(self, size: Any) -> tuple[int, ...]:
        """See `Processor`; a token stands on each side, that which begins pictures where the type has one."""
        return (self.special.get("vision_start_token_id", 6), *[self.token_id] * self.count, 7)

    def place(self, begin: Any) -> int:
        """See `Processor`."""
        return len(begin)

    def inputs(self, picture: Any) -> dict[str, Any]:
        """See `Processor`."""
        import numpy as np

        draw = torch.Generator().manual_seed(int(np.asarray(picture).astype(int).sum()))
        pixels = torch.randn(self.share or 1, *self.shape, generator=draw)
        types = {key: torch.tensor([[0, *[value] * self.count, 0]]) for key, value in self.types.items()}
        more = {
            key: torch.randn(*value, generator=draw) if isinstance(value, tuple) else value
            for key, value in self.more.items()
        }
        return {"pixel_values": pixels, **more, **types}


def candidates(model: Any) -> Iterator[MadeUp]:
    """Shapes of pixels that a type may take, those that few take first."""
    known = inspect.signature(model.forward).parameters
    config = model.config
    eyes = next((getattr(config, key) for key in ("vision_config", "vit_config") if getattr(config, key, None)), config)
    types = {
        key: int(config.model_type != "paligemma") for key in ("token_type_ids", "mm_token_type_ids") if key in known
    }
    size = getattr(eyes, "image_size", None) or getattr(config, "image_size", 32)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    beside = _beside(config, known, height)
    for shape, share, more in itertools.chain(_rare(eyes, known), _patches(config, eyes, known)):
        yield MadeUp(config, shape, share, more, types)
    sizes = {"image_sizes": torch.tensor([[height, width]])} if "image_sizes" in known else {}
    for more, tiles in itertools.product(([sizes, {}] if sizes else [{}]), ((), (1,), (2,), (3,), (1, 4))):
        yield MadeUp(config, (*tiles, 3, height, width), None, beside | more, types)


_Shape = tuple[tuple[int, ...], int | None, dict[str, Any]]


def _patch_of(eyes: Any) -> int:
    patch = getattr(eyes, "model_patch_size", None) or getattr(eyes, "patch_size", 14)
    return int(patch[0] if isinstance(patch, (list, tuple)) else patch)


def _rare(eyes: Any, known: Mapping[str, Any]) -> Iterator[_Shape]:
    """Of types that take pictures as no other does."""
    patch = _patch_of(eyes)
    if "image_token_pooling" in known:  # molmo2: a crop's patches, and which of them become one vector
        count = eyes.num_position_embeddings
        pooling = torch.arange(_PATCHES).reshape(-1, 4)
        grids = torch.tensor([[2, len(pooling) // 2, 0, 0]])
        more = {"image_token_pooling": pooling, "image_grids": grids, "image_num_crops": torch.tensor([1])}
        yield (count, 3 * patch**2), None, more
    if eyes.model_type.startswith("inkling"):
        side = patch * getattr(eyes, "spatial_merge_size", 1)
        if "image_grid_thw" in known:
            yield (side, side, 3), _PATCHES, {"image_grid_thw": torch.tensor([GRID])}
        else:
            yield (eyes.temporal_patch_size, side, side, 3), _PATCHES, {}


def _patches(config: Any, eyes: Any, known: Mapping[str, Any]) -> Iterator[_Shape]:
    """Of types that take patches of a picture rather than the whole."""
    patch = _patch_of(eyes)
    if "image_grid_thw" in known:
        channels = getattr(eyes, "in_channels", None) or getattr(eyes, "num_channels", 3)
        times = getattr(eyes, "temporal_patch_size", 1) or getattr(eyes, "patch_temporal", 1)
        times = getattr(eyes, "patch_temporal", times)
        for deep in dict.fromkeys((times or 1, 1)):
            grid = {"image_grid_thw": torch.tensor([GRID])}
            grid |= {"image_merge_sizes": torch.tensor([2])} if "image_merge_sizes" in known else {}
            yield (channels * deep * patch**2,), _PATCHES, grid
            yield (channels, patch, patch), _PATCHES, grid
    if "spatial_shapes" in known:
        more = {"spatial_shapes": torch.tensor([GRID[1:]])}
        more["pixel_attention_mask"] = torch.ones(1, _PATCHES, dtype=torch.long)
        yield (_PATCHES, 3 * patch**2), None, more
    if "image_position_ids" in known or config.model_type == "diffusion_gemma":
        places = torch.tensor([[[x, y] for y in range(6) for x in range(6)]])
        yield (36, 3 * patch**2), None, {"image_position_ids": places}
    if eyes is config and hasattr(eyes, "num_channels"):  # fuyu
        yield (_PATCHES, 3 * patch**2), None, {}


def _beside(config: Any, known: Mapping[str, Any], height: int) -> dict[str, Any]:
    """What types take beside the pixels of whole pictures."""
    found: dict[str, Any] = {}
    if "high_res_pixel_values" in known:
        side = config.high_res_vision_config.image_size
        found["high_res_pixel_values"] = (1, 3, side, side)
    if "pixel_attention_mask" in known and config.model_type == "granite_docling":
        found["pixel_attention_mask"] = torch.ones(1, 1, dtype=torch.bool)
    if "aspect_ratio_ids" in known:
        found |= {"aspect_ratio_ids": torch.tensor([[1]]), "aspect_ratio_mask": torch.ones(1, 1, 4).long()}
        found["cross_attention_mask"] = torch.ones(1, 3, 1, 4, dtype=torch.long)
    return found
