"""Configurations of model types whose sizes hang together in ways that a rule for names of fields cannot know."""

from __future__ import annotations

from typing import Any

HYBRID = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
CHANGES: dict[str, dict[str, Any]] = {
    "lfm2": HYBRID,
    "lfm2_moe": HYBRID,
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"axial_pos_embds": False},
    "ministral3": {"head_dim": 16},
    "falcon": {"alibi": True},
    "marian": {"scale_embedding": True},
}


def config_of(kind: Any, name: str, seq: bool) -> Any:
    """The default configuration of a type, as a decoder where it may be one."""
    config = kind(**CHANGES.get(name, {}))
    if hasattr(config, "is_decoder") and not seq:
        config.is_decoder = True
    return config
