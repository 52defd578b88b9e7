"""A frozen picture encoder (CLIP, SigLIP, ViT, DINOv2, ResNet, ...): hidden states by place, once a picture.

What CLIP-T5 gives to a text-to-text model (Sung et al. 2022, arXiv 2112.06825, section 3; Shi & Lipani, section 4.1).
The trained map behind it is the adapter's: `dept.adapters.picture_map`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dept.adapters.picture_cache import Kept
from dept.backbones.encoder_files import WHAT, check_grid, place_of
from dept.backbones.files import cannot_load, folder_of, picture_encoder_id
from dept.backbones.measure_picture_encoder import measured, places_of
from dept.config import PictureMap
from infra.errors import InputError
from infra.quiet import errors_alone
from tasks.picture_reader import not_taken, read_picture
from tasks.pictures import Picture

MOST_KEPT = 1 << 30  # bytes of states of one encoder and grid


class PictureEncoder:
    """A model of transformers that turns pixels into hidden states, and what prepares pictures for it.

    Args:
        model: called with `pixel_values`, whose last hidden states are [1, n, f] or [1, f, h, w].
        processor: an image processor.
        name: in errors.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name

    @classmethod
    def from_pretrained(cls, name: str, encoder_id: str | None, device: torch.device) -> PictureEncoder:
        """An encoder by hub id or folder, in float32.

        Args:
            encoder_id: sha256 of its files, as `encoder_files.looked_up` found it.

        Raises:
            InputError: it cannot be loaded, or its files are others than when the map was looked up.
        """
        from transformers import AutoImageProcessor, AutoModel

        folder = folder_of(name, WHAT)
        if picture_encoder_id(folder) != encoder_id:
            raise InputError(
                f"{WHAT} {name}: its files are not those that the trial was planned with. Remedy: the same files, or "
                "run the plan again"
            )
        try:
            with errors_alone("transformers"):
                loading = {"dtype": torch.float32, "output_loading_info": True}
                whole, found = AutoModel.from_pretrained(folder, **loading)
                processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except Exception as error:  # each library raises its own
            raise cannot_load(name, error, WHAT) from error
        part = next((key for key in ("vision_model", "vision_tower") if hasattr(whole, key)), "")
        model = getattr(whole, part) if part else whole
        if missing := [key for key in sorted(found["missing_keys"]) if key.startswith(part) and "pooler" not in key]:
            raise InputError(f"{WHAT} {name}: its files hold no weights {missing[0]}. Remedy: restore the files")
        return cls(model.to(device), processor, name)

    @torch.no_grad()
    def states(self, picture: Image.Image) -> Tensor:
        """Last hidden states of the places of a picture, [h, h, f]: see `places_of`."""
        return places_of(self.model, self._pixels(picture))

    def _pixels(self, picture: Image.Image) -> Tensor:
        found: Tensor = self.processor(images=[picture], return_tensors="pt")["pixel_values"]
        return found.to(next(self.model.parameters()).device)

    def measure(self) -> int:
        """The width of its states. Raises InputError where it is no encoder of places: see `measured`."""
        noise = Image.frombytes("RGB", (64, 64), Random(0).randbytes(3 * 64 * 64))
        remedy = "a CLIP, SigLIP, ViT, DINOv2, or another like them"
        beside = "the preprocessor_config.json that was saved with it"
        pixels = None
        try:
            pixels = self._pixels(noise)
            return measured(self.model, pixels)
        except Exception as error:  # each model and processor has its own errors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            wanted = getattr(self.model.config, "image_size", None)
            if pixels is None:
                reason, remedy = f"what prepares its pictures fails: {reason}", beside
            elif isinstance(wanted, int) and (size := tuple(pixels.shape[-2:])) != (wanted, wanted):
                made = f"{size[0]} x {size[1]} pixels"
                reason += f"; its preprocessor makes pictures of {made}, its config says {wanted} x {wanted}"
                remedy = f"{beside}, or {remedy}"
            raise InputError(f"{WHAT} {self.name}: it is not read here: {reason}. Remedy: {remedy}") from error

    def read(self, picture: Picture, grid: int) -> Tensor:
        """Features of the places of a picture, [grid * grid, f] float32 on the CPU: see `encoded`."""
        image = read_picture(picture)
        try:
            found = self.states(image)
        except Exception as error:  # each processor has its own errors
            raise not_taken(picture.path, error, f"encoder {self.name}") from error
        check_grid(self.name, grid, len(found))
        pooled = functional.adaptive_avg_pool2d(found.permute(2, 0, 1)[None].float(), grid)[0].flatten(1).T
        return functional.layer_norm(pooled, pooled.shape[-1:]).cpu() / math.sqrt(pooled.shape[1])


@lru_cache(maxsize=4)
def _loaded(name: str, encoder_id: str | None, device: torch.device) -> tuple[PictureEncoder, int]:
    encoder = PictureEncoder.from_pretrained(name, encoder_id, device)
    return encoder, encoder.measure()


def encoder_of(config: PictureMap, device: torch.device) -> PictureEncoder:
    """The encoder of a map that was looked up, loaded and measured once in a process.

    Raises:
        InputError: see `PictureEncoder.from_pretrained` and `measure`; a width that its config does not tell.
    """
    encoder, width = _loaded(place_of(config), config.encoder_id, device)
    if width != config.width:
        raise InputError(
            f"{WHAT} {config.encoder}: its states are {width} wide, its config says {config.width}. Remedy: a CLIP, "
            "SigLIP, ViT, DINOv2, or another like them"
        )
    return encoder


@lru_cache(maxsize=4)
def _kept(_encoder_id: str | None, _grid: int) -> Kept[Tensor]:
    return Kept(MOST_KEPT)


def encoded(pictures: Sequence[Picture], config: PictureMap, device: torch.device) -> Tensor:
    """What a map reads of pictures, [K, n, f]: states averaged to n places, each normalised and divided by sqrt(f).

    So one rate does for encoders of every size and scale. Each picture goes through the encoder alone, so that its
    numbers hang on nothing else, and once a process; what is kept is bounded (`MOST_KEPT`).

    Raises:
        InputError: a picture that is gone, has changed, or cannot be read; see `encoder_of`.
    """
    kept = _kept(config.encoder_id, config.grid)

    def make(missing: Sequence[Picture]) -> list[Tensor]:
        encoder = encoder_of(config, device)
        return [encoder.read(picture, config.grid) for picture in missing]

    return torch.stack(kept.of(pictures, make)).to(device)
