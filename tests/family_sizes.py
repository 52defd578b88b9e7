"""Configurations of model types whose sizes hang together in ways that a rule for names of fields cannot know."""

from __future__ import annotations

from typing import Any

HYBRID = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
CHANGES: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": 96, "mask_token_id": 3},
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

# Of these a tiny random model's gradients change by 1 % where its inputs are off by one rounding of float32.
DOUBLE = {"mobilebert:m"}

# Whole configurations, for types that no rule makes small.
_SMALL = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
_USUAL = {**_SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MLA = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 8, "num_key_value_heads": 4}
_EXPERTS = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
}
TINY: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {
        **{**_USUAL, **_MLA, **_EXPERTS, "first_k_dense_replace": 1, "head_dim": 16, "layer_group_size": 2},
        **{"num_mtp_layers": 0},
    },
    "kimi_linear": {
        **{**_USUAL, **_MLA, **_EXPERTS, "linear_head_dim": 16, "linear_num_heads": 4},
        **{"layer_types": ["linear_attention", "full_attention"] * 2, "mlp_layer_types": ["dense", "sparse"] * 2},
    },
    "cohere_compass_text": {
        **{**_USUAL, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
        **{"rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}, "logit_scale": 0.5},
    },
    "dbrx": {
        **{"vocab_size": 96, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        **{"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
        **{"ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    },
    "dory": {
        **{**_USUAL, "head_dim": 16, "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1},
        **{"sliding_window": 8},
    },
    "dots1": {**_USUAL, **_EXPERTS, "n_shared_experts": 1, "head_dim": 16, "first_k_dense_replace": 1},
    "hrm_text": {
        **{**_SMALL, "intermediate_size": 64, "max_position_embeddings": 64, "num_hidden_layers": 1, "head_dim": 16},
        **{"H_cycles": 1, "L_cycles": 2},
    },
    "ministral3": {
        **{**_USUAL, "head_dim": 16},
        **{
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16},
                **{"llama_4_scaling_beta": 0.1, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0},
                **{"mscale_all_dim": 1.0},
            }
        },
    },
    "qwen4_exp_text": {
        **{**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16},
        **{"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2},
        **{"linear_num_value_heads": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
        **{"num_experts": 4, "num_experts_per_tok": 2, "hc_count": 2, "hc_lowrank": 8},
        **{"layer_types": ["linear_attention", "indexed_attention"] * 2, "indexer_n_heads": 2, "indexer_kv_heads": 1},
        **{"indexer_head_dim": 16, "indexer_budget": 64, "indexer_compress_ratio": 4},
    },
    "xlstm": {
        **{"vocab_size": 96, "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "chunk_size": 16},
        **{"autocast_kernel_dtype": "float32", "num_blocks": 2, "embedding_dim": 128},
    },
    "zamba": {
        **{**_SMALL, "intermediate_size": 64, "max_position_embeddings": 64, "n_mamba_heads": 2, "mamba_d_state": 8},
        **{"mamba_dt_rank": 4, "attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4},
        **{"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2},
    },
    "zamba2": {
        **{**_SMALL, "intermediate_size": 64, "max_position_embeddings": 64, "n_mamba_heads": 8, "mamba_d_state": 8},
        **{"layers_block_type": ["linear_attention", "hybrid"] * 2, "chunk_size": 16, "adapter_rank": 8},
    },
    "zaya": {
        **{**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16, "num_experts": 4},
        **{"num_experts_per_tok": 1, "moe_intermediate_size": 32, "router_hidden_size": 16},
    },
}


def config_of(kind: Any, name: str, seq: bool) -> Any:
    """The default configuration of a type, as a decoder where it may be one."""
    config = kind(**CHANGES.get(name, {}))
    if hasattr(config, "is_decoder") and not seq:
        config.is_decoder = True
    return config
