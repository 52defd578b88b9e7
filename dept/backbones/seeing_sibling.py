"""A tiny random model of the kind of one that reads pictures, for pictures as its own processor makes them.

As `sibling`, but for sizes of pictures and patches; what reads these is narrow.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from dept.backbones.sibling import HEADS, LAYER_COUNTS, TEXT, TOKEN, VOCABULARY, Body, cut_layers, random_model, shrunk

_WIDTH = 64
_WIDTHS = (
    r"(hidden_size|embed_dim|embedding_dim|d_model|intermediate_size|mlp_dim|out_hidden_size|projection_dim|proj_dim|"
    r"output_dim|vision_output_dim|projector_(input|output|hidden)_dim|projector_hidden_size|image_emb_dim|"
    r"text_hidden_size|mm_embed_dim|output_proj_dims|adapter_(in_dim|out_dim|input_size)|moe_intermediate_size|"
    r"codebook_dim)"
)
_HEAD_COUNTS = r"(num_attention_heads|num_heads|attention_heads|num_key_value_heads|(en|de)coder_attention_heads)"
_ALIKE = 1e-6  # matrices of smaller numbers let nothing of a picture through
_POSITIONS = r"(max_position_embeddings|n_positions|max_seq_len|n_ctx)"
_DEPTHS = (  # which of its layers give, or take, states
    r"(deepstack_visual_indexes|fullatt_block_indexes|global_attn_indexes|intermediate_layers_indices|"
    r"spatial_target_layers)"
)
_CHANNELS = 32  # of convolutions, whose groups are as many
_CODES = 8  # tokens that pictures, or sounds, are told by


class SiblingProcessor:
    """What a processor makes of pictures, with the token ids of a sibling's smaller vocabulary."""

    def __init__(self, processor: Any, config: Any) -> None:
        self._theirs, self._of = processor, processor.special
        self.special = {key: int(getattr(config, key)) for key in self._of}
        own = {value: key for key, value in self._of.items()}
        self._ids = {value: self.special[key] for value, key in own.items()}
        self.token_id = self._ids[processor.token_id]
        self._plain = next(i for i in range(5, VOCABULARY) if i not in self.special.values())

    def block_ids(self, size: tuple[int, int]) -> tuple[int, ...]:
        """See `processor.Processor`."""
        return tuple(self._ids.get(one, self._plain) for one in self._theirs.block_ids(size))

    def inputs(self, picture: Any) -> Any:
        """See `processor.Processor`."""
        return self._theirs.inputs(picture)


def seeing_sibling(model: Any, processor: Any, seed: int = 0) -> tuple[Any, Any]:
    """A sibling of a model that reads pictures, for pictures as its processor makes them; and what stands for that.

    Raises:
        ValueError, KeyError: none can be made.
    """
    config = small_seeing(model.config, processor.special)
    config._attn_implementation = model.config._attn_implementation
    return random_seeing(type(model), config, seed), SiblingProcessor(processor, config)


def random_seeing(kind: Any, config: Any, seed: int = 0) -> Any:
    """As `random_model`; matrices that begin at 0 or so, so that all pictures would look alike, are drawn as well."""
    made = random_model(kind, config, seed)
    draw = torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        if weight.ndim >= 2 and float(weight.abs().max()) < _ALIKE:
            size = weight.shape[0] if weight.ndim == 2 else math.prod(weight.shape[1:])
            weight.copy_(torch.randn(weight.shape, generator=draw) * 1.5 / math.sqrt(size))
    return made


def small_seeing(config: Any, special: Iterable[str]) -> Any:
    """As `small`, but for positions of the text part, and sizes of pictures and patches; what reads these is narrow.

    Args:
        special: fields that name tokens, of which no two may become one.
    """
    body = config.to_dict()
    found = shrunk(body)
    for key, value in body.items():
        if key in TEXT and isinstance(value, dict):
            found[key] |= {k: v for k, v in value.items() if re.fullmatch(_POSITIONS, k)}
        elif isinstance(value, dict) and key.endswith("config"):
            found[key] = _narrow(value)
        elif key in ("projection_dim", "projection_hidden_size", "projector_hidden_size", "hidden_size"):
            found[key] = _WIDTH
        elif key == "out_hidden_size":  # as many patches together as before
            found[key] = value // body["vision_config"]["hidden_size"] * _WIDTH
        elif re.fullmatch(_DEPTHS, key) and value:
            found[key] = [min(i, 1) for i in value]
        elif key == "deepstack_layer_map" and value:  # of granite4_vision: from which layer, to which
            found[key] = [[max(i, -2) if i < 0 else min(i, 1), min(to, 1)] for i, to in value]
        elif not isinstance(value, dict) and not TOKEN.fullmatch(key):
            found[key] = value
    taken: set[int] = set()
    for key in special:
        found[key] = next(i for i in range(int(found[key]) % VOCABULARY, 2 * VOCABULARY) if i % VOCABULARY not in taken)
        found[key] %= VOCABULARY
        taken.add(found[key])
    _place_codes(found)
    return type(config).from_dict(found)


def _place_codes(found: Body) -> None:
    """Of models that tell pictures and sounds by tokens of the vocabulary's end (apertus1p5): a few of each."""
    offsets = sorted((key for key in found if key.endswith("_token_offset")), key=lambda key: found[key])
    for number, key in enumerate(offsets):
        found[key] = VOCABULARY - _CODES * (len(offsets) - number)
        found[{"image": "vision_config", "audio": "audio_config"}[key.split("_")[0]]]["codebook_size"] = _CODES


def _narrow(body: Body) -> Body:
    """The fields of what reads pictures, with small sizes but for those of pictures."""
    found = copy.deepcopy(body)
    cut_layers(found)
    reach = [abs(i) for key in ("vision_feature_layer",) for i in _listed(body.get(key))]
    for key, value in body.items():
        if LAYER_COUNTS.fullmatch(key) and isinstance(value, int):
            found[key] = max([found[key], *reach])
        elif isinstance(value, dict) and (key.endswith("config") or key == "model_args"):
            found[key] = _narrow(found[key])
        elif re.fullmatch(_DEPTHS, key):
            found[key] = [min(i, 1) for i in range(len(value))]
        elif key == "downsample_channels":
            found[key] = [_WIDTH] * len(value)
        elif key == "base_channels":
            found[key] = _CHANNELS
        elif key in ("num_res_blocks", "num_global_layers"):
            found[key] = 1
        elif isinstance(value, int) and not isinstance(value, bool) and re.fullmatch(_WIDTHS, key):
            found[key] = _WIDTH
        elif key == "head_dim" and isinstance(value, int):
            found[key] = _WIDTH // HEADS
        elif re.fullmatch(_HEAD_COUNTS, key) and value is not None:
            found[key] = HEADS
    if depths := body.get("intermediate_layers_indices"):  # of mllama: their states side by side, and the last
        found["vision_output_dim"] = _WIDTH * (1 + len(depths))
    if shuffled := body.get("pixel_shuffle_ratio"):  # of llama4: what is shuffled is as wide as its neighbours together
        found["intermediate_size"] = round(_WIDTH / shuffled**2)
    return found


def _listed(value: Any) -> list[int]:
    return value if isinstance(value, list) else []
