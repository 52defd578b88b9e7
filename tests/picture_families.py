"""Every image-text-to-text model type of the installed transformers, tiny and random: right, or refused.

Part of `tests.families`, where `:v` stands behind their names. What a processor would make of a picture is made up:
pixels in the shape that the type takes, and as many placeholders as it makes vectors of them.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t

from dept.backbones.backbone import Backbone
from dept.backbones.processor import token_of, tokens_of
from dept.backbones.seeing_sibling import random_seeing, small_seeing
from dept.backbones.sibling import VOCABULARY
from dept.backbones.vision import Given, NoEmbeddingsError, row_of
from tests import seeing
from tests.family_sizes import TINY
from tests.picture_shapes import MadeUp, candidates

# Options of types whose sizes hang together in ways that a rule for names of fields cannot know.
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MROPE = {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}}
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
    **dict.fromkeys(("glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga", "paddleocr_vl"), _MROPE),
    "lighton_ocr": {"vision_config": {"image_size": 56}},
    **{name: {"vision_config": {"image_size": 112}} for name in ("mistral3", "mistral_large4")},
    "llama4": {"vision_config": {"image_size": 112}},
    **{name: {"vision_config": {}} for name in ("gemma4", "gemma4_unified")},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": {**_ROPE, "mrope_section": [2, 2, 2, 2]}}},
    **{
        name: {**_MROPE, "vision_start_token_id": 151652} for name in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
    },
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [3, 3, 2]}}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "qwen4_exp": {"text_config": TINY["qwen4_exp_text"]},
    "cohere_compass": {"text_config": TINY["cohere_compass_text"]},
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
    },
    "granite4_vision": {
        **{"deepstack_layer_map": [[-19, 9], [-1, 0]], "spatial_target_layers": [12, 15], "downsample_rate": "2/4"},
        **{"image_grid_pinpoints": [[128, 128]], "vision_config": {"image_size": 128, "patch_size": 16}},
    },
    "mllama": {"vision_config": {"image_size": 56}},
    "deepseek_ocr2": {
        "text_config": {
            **{"num_hidden_layers": 4, "mlp_layer_types": ["dense", "sparse"] * 2, "num_experts_per_tok": 2},
        },
    },
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 64}}},
    "gemma3n": {"vision_soft_tokens_per_image": 16},
}


def names() -> list[str]:
    """All types."""
    from transformers.models.auto import modeling_auto as auto

    return [f"{name}:v" for name in sorted(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)]


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
    inner = getattr(getattr(model, "model", None), "get_image_features", ask)
    takes = {key for one in (ask, inner) for key in inspect.signature(one).parameters}
    found = ask(**{key: value for key, value in given.items() if key in takes})
    made = getattr(found, "pooler_output", found)
    if (found := getattr(found, "last_hidden_state", None) if made is None else made) is None:
        return 1  # the model will say how many there are
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
    rows = [row_of(processor.block_ids(None), processor.inputs(_picture(number)), [5], [5]) for number in (1, 2)]
    try:
        alike = torch.equal(*(Given.by(model, row).embeddings for row in rows))
    except NoEmbeddingsError:  # pictures stand beside the text
        alike = True
    if alike and torch.equal(*(model(**row).logits for row in rows)):
        raise ValueError("other pictures do not become other vectors")


def tried(name: str) -> tuple[str, str]:
    """What becomes of a type, see `families.Found`: kind and why."""
    from tests import families

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
