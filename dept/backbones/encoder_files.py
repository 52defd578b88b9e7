"""Which frozen picture encoder an adapter's map reads: the sha256 of its files, the width of its states. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dept.backbones.files import PREPARES, cannot_load, folder_of, picture_encoder_id
from dept.config import PictureMap
from infra.errors import InputError
from infra.quiet import errors_alone

WHAT = "adapter.pictures: encoder"  # heads errors
_found: dict[str, str] = {}  # where an encoder lies on this machine, by the sha256 of its files


def looked_up(pictures: PictureMap) -> PictureMap:
    """A map with what its encoder's files say; one of pixels as it is.

    Raises:
        InputError: there are no such files, they are no picture encoder's or not those of its `encoder_id`, or it has
            fewer places than `grid` asks for.

    Example:
        >>> looked_up(PictureMap(grid=4)).encoder is None
        True
    """
    name = pictures.encoder
    if name is None:
        return pictures
    folder = folder_of(name, WHAT)
    whole = _config_of(folder, name)
    part = getattr(whole, "vision_config", whole)  # of CLIP and its like, which read texts as well
    width = getattr(part, "hidden_size", None) or (getattr(part, "hidden_sizes", None) or [None])[-1]
    if hasattr(part, "vocab_size") or not isinstance(width, int):
        raise InputError(
            f"{WHAT} {name}: no model that turns pictures into hidden states. Remedy: a CLIP, SigLIP, ViT, DINOv2, or "
            "another like them"
        )
    if not any((folder / file).is_file() for file in PREPARES):
        raise InputError(
            f"{WHAT} {name}: no preprocessor_config.json beside it, which says how pictures are resized and scaled. "
            "Remedy: save its image processor into the same folder"
        )
    size, patch = getattr(part, "image_size", None), getattr(part, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int):
        check_grid(name, pictures.grid, size // patch)
    encoder_id = picture_encoder_id(folder)
    if pictures.encoder_id not in (None, encoder_id):
        raise InputError(f"{WHAT} {name}: its files are not those of encoder_id. Remedy: leave encoder_id out")
    _found[encoder_id] = name
    return pictures.model_copy(update={"encoder_id": encoder_id, "width": width})


def place_of(pictures: PictureMap) -> str:
    """Hub id or folder of a map's encoder: the one that was looked up in this process, else what the map says.

    An adapter's file names the place where the encoder lay when the adapter was made.
    """
    return _found.get(str(pictures.encoder_id), str(pictures.encoder))


def check_grid(name: str, grid: int, side: int) -> None:
    """Refuse a grid that is finer than the encoder's own: places could only be doubled. `side`: places in its row."""
    if 0 < side < grid:
        raise InputError(
            f"{WHAT} {name}: it has {side} x {side} places, and grid asks for {grid} x {grid}. Remedy: grid: {side} "
            "or less"
        )


def _config_of(folder: Path, name: str) -> Any:
    from transformers import AutoConfig  # imports torch

    try:
        with errors_alone("transformers"):
            return AutoConfig.from_pretrained(folder)
    except Exception as error:  # ValueError, KeyError, OSError by what is damaged
        raise cannot_load(name, error, WHAT) from error
