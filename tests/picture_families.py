"""Every image-text-to-text model type of the installed transformers, tiny and random: right, or refused.

Part of `tests.families`, where `:v` stands behind their names. What a processor would make of a picture is made up:
pixels in the shape that the type takes, and as many placeholders as it makes vectors of them.
"""

from __future__ import annotations

import inspect
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as t

from dept.backbones.backbone import Backbone
from dept.backbones.processor import token_of, tokens_of
from dept.backbones.sibling import VOCABULARY, random_seeing, small_seeing
from dept.backbones.vision import Given, row_of
from tests import seeing

# Options of types whose sizes hang together in ways that a rule for names of fields cannot know.
_MROPE = {"text_config": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}}
CHANGES: dict[str, dict[str, Any]] = {
    "vipllava": {"vision_feature_layers": [-2, -1]},
    "gemma3": {"mm_tokens_per_image": 49},
    "shieldgemma2": {"mm_tokens_per_image": 49},
    "idefics3": {"vision_config": {"patch_size": 28}},
    "smolvlm": {"vision_config": {"patch_size": 28}},
    "aya_vision": {"vision_config": {"image_size": 56, "patch_size": 14}},
    "aria": {"vision_config": {"image_size": 490, "patch_size": 14}},
    "qwen2_vl": _MROPE,
    "qwen2_5_vl": _MROPE,
    **dict.fromkeys(("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl"), _MROPE),
    **{name: {"vision_config": {"image_size": 56}} for name in ("mistral3", "lighton_ocr", "mistral_large4")},
}
_LONG = ("deepseek_ocr2",)
_GRID = (1, 4, 6)  # patches by time, height and width


def names() -> list[str]:
    """All types."""
    from transformers.models.auto import modeling_auto as auto

    return [f"{name}:v" for name in sorted(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)]


class MadeUp:
    """In place of a `processor.Processor`: noise for pixels, by the sum of a picture's.

    Args:
        pixels: shape of what a picture becomes, by name, but for the first size, which is its share of a batch.
        share: of the first size. more: what else the model takes for one picture.
    """

    def __init__(
        self, config: Any, shape: tuple[int, ...], share: int | None, more: dict[str, Any], types: Any
    ) -> None:
        self.special, self.token_id = tokens_of(config.to_dict()), token_of(config.to_dict())
        self.shape, self.share, self.more, self.types = shape, share, more, types
        self.count = 1

    def block_ids(self, size: Any) -> tuple[int, ...]:
        """See `Processor`; a token of text stands on each side."""
        return (6, *[self.token_id] * self.count, 7)

    def place(self, begin: Any) -> int:
        """See `Processor`."""
        return len(begin)

    def inputs(self, picture: Any) -> dict[str, Any]:
        """See `Processor`."""
        import numpy as np

        draw = torch.Generator().manual_seed(int(np.asarray(picture).astype(int).sum()))
        pixels = torch.randn(self.share or 1, *self.shape, generator=draw)
        types = {key: torch.tensor([[0, *[value] * self.count, 0]]) for key, value in self.types.items()}
        return {"pixel_values": pixels, **self.more, **types}


def candidates(model: Any) -> Iterator[MadeUp]:
    """Shapes of pixels that a type may take."""
    known = inspect.signature(model.forward).parameters
    config = model.config
    eyes = next((getattr(config, key) for key in ("vision_config", "vit_config") if getattr(config, key, None)), config)
    types = {
        key: int(config.model_type != "paligemma") for key in ("token_type_ids", "mm_token_type_ids") if key in known
    }
    size = getattr(eyes, "image_size", None) or getattr(config, "image_size", 32)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    patch = getattr(eyes, "patch_size", 14)
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    if "image_grid_thw" in known:
        channels = getattr(eyes, "in_channels", None) or getattr(eyes, "num_channels", 3)
        for deep in dict.fromkeys((getattr(eyes, "temporal_patch_size", 1) or 1, 1)):
            grid = {"image_grid_thw": torch.tensor([_GRID])}
            yield MadeUp(config, (channels * deep * patch**2,), _GRID[1] * _GRID[2], grid, types)
            yield MadeUp(config, (channels, patch, patch), _GRID[1] * _GRID[2], grid, types)
    if "spatial_shapes" in known:
        more = {"spatial_shapes": torch.tensor([_GRID[1:]])}
        more["pixel_attention_mask"] = torch.ones(1, _GRID[1] * _GRID[2], dtype=torch.long)
        yield MadeUp(config, (_GRID[1] * _GRID[2], 3 * patch**2), None, more, types)
    if "image_position_ids" in known:
        places = torch.tensor([[[x, y] for y in range(6) for x in range(6)]])
        yield MadeUp(config, (36, 3 * patch**2), None, {"image_position_ids": places}, types)
    sizes = {"image_sizes": torch.tensor([[height, width]])} if "image_sizes" in known else {}
    for more, tiles in itertools.product(([sizes, {}] if sizes else [{}]), ((), (1,), (2,), (3,))):
        yield MadeUp(config, (*tiles, 3, height, width), None, more, types)


def made(name: str) -> tuple[Any, MadeUp]:
    """A tiny random model of a type, and what stands for its processor.

    Raises:
        Exception: none can be made, or none of the known shapes of pixels fits.
    """
    of = t.CONFIG_MAPPING[name]
    config = of(**CHANGES.get(name, {}))
    special = tokens_of(config.to_dict())
    token_of(config.to_dict())
    config = small_seeing(config, special)
    above = iter(range(VOCABULARY - 1, 60, -1))  # of the ids of words
    for key in special:
        setattr(config, key, next(above))
    if listed := getattr(config, "visual_indicator_token_ids", None):
        config.visual_indicator_token_ids = [next(above) for _ in listed]
    for part in (config, config.get_text_config()):
        part.eos_token_id, part.pad_token_id, part.bos_token_id = 1, 0, 1
    kind = t.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    model = random_seeing(kind[0] if isinstance(kind, (tuple, list)) else kind, config)
    with torch.no_grad():
        first: Exception | None = None
        for processor in candidates(model):
            try:
                processor.count = _count(model, processor)
                return _fitted(model, processor)
            except Exception as error:
                first = first or ValueError(f"{tuple(processor.shape)}: {type(error).__name__}: {error}")
    raise first or ValueError("no shape of pixels is known that it takes")


def _picture(number: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (4, 4), (number, 2, 3))


def _count(model: Any, processor: MadeUp) -> int:
    """Vectors of one picture."""
    given = processor.inputs(_picture(1))
    ask: Callable[..., Any] | None = getattr(model, "get_image_features", None)
    if ask is None:
        return 1
    takes = inspect.signature(ask).parameters
    found = ask(**{key: value for key, value in given.items() if key in takes})
    found = getattr(found, "pooler_output", found)
    vectors = [one.reshape(-1, one.shape[-1]) for one in (found if isinstance(found, (tuple, list)) else [found])]
    return sum(map(len, vectors))


def _fitted(model: Any, processor: MadeUp) -> tuple[Any, MadeUp]:
    """Both, where two pictures, each in a row, become different vectors; as many as the model says that there are."""
    try:
        _check(model, processor)
    except Exception as error:
        if (told := re.search(r"tokens: \d+, features: (\d+)", str(error))) is None:
            raise
        d, every = model.get_input_embeddings().weight.shape[1], int(told[1])
        processor.count = every if every < 64 or every % d else every // d
        _check(model, processor)
    return model, processor


def _check(model: Any, processor: MadeUp) -> None:
    rows = (row_of(processor.block_ids(None), processor.inputs(_picture(number)), [5], [5]) for number in (1, 2))
    one, other = (Given.by(model, row).embeddings for row in rows)
    if torch.equal(one[0, 2], other[0, 2]):
        raise ValueError("other pictures do not become other vectors")


def tried(name: str) -> tuple[str, str]:
    """What becomes of a type, see `families.Found`: kind and why."""
    from tests import families

    if name in _LONG:
        return "none", "what reads its pictures takes more than ten minutes in any size that is known here"
    try:
        config = t.CONFIG_MAPPING[name](**CHANGES.get(name, {}))
        if config.is_encoder_decoder:
            return "refused", "pictures: an encoder-decoder"
        token_of(config.to_dict())
    except ValueError as error:
        if "stands for pictures" in str(error):
            return "refused", f"pictures: {error}"
    try:
        model, processor = made(name)
    except Exception as error:
        return "none", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    backbone = Backbone.of(model, families.tokenizer(), name, None, processor)
    if not backbone.reads_pictures:
        return "refused", f"pictures: {backbone.blind}"
    with tempfile.TemporaryDirectory() as folder:
        pictures = seeing.pictures_in(Path(folder))
        off = seeing.compared(backbone, pictures)
    way = backbone.way
    told = f"{way.rows}, masks {way.masks}, pictures {way.pictures}, sees {way.sees}"
    return ("wrong", off) if off else (way.told, told)
