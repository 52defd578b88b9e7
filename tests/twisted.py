"""Tiny models made apart from the self-test's own siblings: other sizes, weights, and options that are not the default.

A slip in how siblings are made would be in the models of `tests.families` too. Nothing of `dept` is used here.
"""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 131,
    "max_position_embeddings": 90,
    "initializer_range": 0.15,
}
WINDOW = {"sliding_window": 11}
BART = {
    **{"vocab_size": 131, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 3},
    **{"decoder_attention_heads": 6, "encoder_ffn_dim": 40, "decoder_ffn_dim": 56, "max_position_embeddings": 90},
    **{"init_std": 0.2, "decoder_start_token_id": 1},
}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
# Type -> options. Each name stands for one thing that siblings do not have by default.
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "tie_word_embeddings": True, "rope_parameters": YARN, "attention_bias": True},
    "mistral": {**SIZES, "sliding_window": 5, "head_dim": 20, "tie_word_embeddings": True},
    "qwen2": {**SIZES, **WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {**SIZES, **WINDOW, "use_sliding_window": True, "max_window_layers": 2, "head_dim": 24},
    "phi3": {**SIZES, **WINDOW, "pad_token_id": 0, "tie_word_embeddings": True},
    "mixtral": {**SIZES, **WINDOW, "num_local_experts": 3},
    "starcoder2": {**SIZES, **WINDOW},
    "gemma2": {
        **{**SIZES, "sliding_window": 9, "head_dim": 24, "query_pre_attn_scalar": 7},
        **{"final_logit_softcapping": 1.5, "attn_logit_softcapping": 2.0},
    },
    "gemma3_text": {
        **{**SIZES, "sliding_window": 9, "head_dim": 24, "query_pre_attn_scalar": 30, "final_logit_softcapping": 2.0},
        **{"layer_types": ["full_attention", "sliding_attention", "full_attention"], "tie_word_embeddings": False},
    },
    "granite": {
        **{**SIZES, "embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.4},
        **{"attention_multiplier": 0.1},
    },
    "cohere": {**SIZES, "logit_scale": 0.25, "use_qk_norm": True},
    "stablelm": {**SIZES, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
    "olmo2": {**SIZES, "tie_word_embeddings": True},
    "falcon": {
        **{"vocab_size": 131, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_kv_heads": 2},
        **{"new_decoder_architecture": True, "initializer_range": 0.15, "bias": True, "max_position_embeddings": 90},
    },
    "gpt2": {
        **{"vocab_size": 131, "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 90, "initializer_range": 0.15},
        **{"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
    },
    "opt": {
        **{"vocab_size": 131, "hidden_size": 96, "word_embed_proj_dim": 40, "num_hidden_layers": 3, "ffn_dim": 80},
        **{"num_attention_heads": 6, "max_position_embeddings": 90, "init_std": 0.15, "do_layer_norm_before": False},
    },
    "gpt_neo": {
        **{"vocab_size": 131, "hidden_size": 96, "num_layers": 3, "num_heads": 6, "max_position_embeddings": 90},
        **{"attention_types": [[["local", "global", "local"], 1]], "window_size": 7, "initializer_range": 0.15},
    },
    "bart:s": {**BART, "scale_embedding": True},
    "m2m_100:s": {**BART, "scale_embedding": False},
    "blenderbot:s": {**BART, "scale_embedding": True, "tie_word_embeddings": True},
    "t5:s": {
        **{"vocab_size": 131, "d_model": 48, "d_kv": 20, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 1},
        **{"num_heads": 3, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "initializer_factor": 2.0},
        **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0},
    },
}


def model_of(name: str, seed: int = 5) -> Any:
    """A tiny model of a type with these options, of transformers' own random weights, norms and biases moved."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    kind, _, seq = name.partition(":")
    config = CONFIG_MAPPING[kind](**{"eos_token_id": 1, "pad_token_id": 0, **CHANGES[name]})
    found = (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if seq else MODEL_FOR_CAUSAL_LM_MAPPING)[type(config)]
    torch.manual_seed(seed)
    made = found(config).float().eval().requires_grad_(False)
    for weight in made.parameters():
        if weight.ndim == 1:
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return made
