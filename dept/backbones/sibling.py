"""A tiny random model of another model's kind: the same class, layer types and options, small in every size.

What hangs on the architecture alone (masks, windows, caches, positions) is measured on it in a blink, with windows so
short that a text of a few tokens reaches beyond them, and for a backbone of which this process holds only a part.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from torch import nn

from infra.errors import InputError

WINDOW = 8  # tokens that its layers with a window see
POSITIONS = 64
VOCABULARY = 96
_LAYERS = 8  # at most; two of each kind
HEADS = 4
# Size fields of transformers' configurations by name; of several patterns the first that fits counts.
_SIZES: tuple[tuple[str, int], ...] = (
    (
        r"(sliding_window|window_size|attention_window|sliding_window_size|attention_chunk_size|local_window_size|"
        r"local_attention)",
        WINDOW,
    ),
    (r"(attention_window_size|max_local_attention)", WINDOW),
    (
        r"(vocab_size|vocab_size_per_layer_input|encoder_hash_byte_group_vocab|decoder_vocab_size|src_vocab_size|tgt_vocab_size)",
        VOCABULARY,
    ),
    (r"(unpadded_vocab_size)", VOCABULARY - 4),
    (r"(max_position_embeddings|n_positions|max_seq_len|n_ctx|max_(encoder|decoder)_position_embeddings)", POSITIONS),
    (r"(model_max_length|max_sequence_length|seq_length|context_length)", POSITIONS),
    (r"(max_(source|target)_positions|index_topk)", POSITIONS),
    (r"(head_dim|head_dim_override|attention_head_size|kv_channels|d_kv|dim_head|swa_head_dim|global_head_dim)", 16),
    (r"(linear_head_dim|linear_(key|value)_head_dim|index_head_dim|kda_head_dim|attention_head_dim)", 16),
    (r"(qk_rope_head_dim|qk_nope_head_dim|rope_head_dim|qk_pos_emb_head_dim)", 8),
    (r"(v_head_dim|qk_head_dim|mamba_head_dim|mamba_d_head|d_head)", 16),
    (r"(rotary_dim)", 8),
    (r"(mamba_d_ssm)", 128),
    (r"(q_lora_rank|kv_lora_rank|o_lora_rank|.*lora_rank|lora_dim)", 16),
    (
        r"(num_attention_heads|n_head|n_heads|num_heads|(en|de)coder_attention_heads|num_decoder_attention_heads)",
        HEADS,
    ),
    (
        r"(num_encoder_attention_heads|swa_num_attention_heads|index_n_heads|linear_num_value_heads|linear_num_heads)",
        HEADS,
    ),
    (r"(linear_num_key_heads)", 2),
    (
        r"(hidden_size|d_model|n_embd|dim|embedding_size|word_embed_proj_dim|embedding_dim|attention_hidden_size|lru_width|emb_dim|"
        r"moe_hidden_size)",
        64,
    ),
    (r"(.*intermediate_size.*|n_inner|d_ff|.*ffn_dim|ffn_hidden_size|dim_ff|block_ff_dim|dense_d_ff|ff_dim)", 64),
    (r"(hidden_size_per_layer_input|altup_.*dim|laurel_rank|d_rel|tie_dim|proj_dim)", 8),
    (r"(num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_local_experts|n_experts)", 4),
    (r"(num_experts_per_tok(en)?|moe_topk|moe_k|num_selected_experts|moe_top_k|top_k_experts)", 2),
    (r"(n_group|topk_group|num_expert_group|topk_groups|n_groups|mamba_n_groups|mamba_ngroups)", 1),
    (r"(rel_extent|index_block_size|floor_scale|original_max_position_embeddings)", WINDOW),
    (r"(mamba_d_state|state_size|ssm_state_size)", 8),
    (r"(mamba_n_heads|n_mamba_heads|mamba_num_heads)", 8),
    (r"(time_step_rank|mamba_dt_rank)", 4),
    (r"(num_kv_shared_layers|attn_layer_period|expert_layer_period)", 2),
    (r"(attn_layer_offset|expert_layer_offset|first_k_dense_replace|num_dense_layers|max_window_layers)", 1),
    (r"(chunk_size|mamba_chunk_size)", 16),
    (r"(expert_capacity)", 64),
    (r"(patch_size|image_size)", 8),
)
LAYER_COUNTS = re.compile(
    r"(num_(hidden_|encoder_|decoder_)?layers|n_layers?|(en|de)coder_layers|num_decoder_layers|depth)"
)
_KV_HEADS = re.compile(r"(num_key_value_heads|num_kv_heads|multi_query_group_num|swa_num_key_value_heads|kv_n_heads)")
TEXT = ("text_config", "decoder", "encoder", "llm_config", "language_config", "thinker_config")
TOKEN = re.compile(r".*_(token|token_id|token_ids|index|index_id)s?$")
Body = dict[str, Any]


def sibling(model: Any, seed: int = 0) -> Any:
    """A tiny random float32 model of the class and kind of `model`, on the CPU, frozen, in evaluation mode.

    Raises:
        InputError: none can be made of its configuration.
    """
    kind = type(model)
    try:
        config = small(model.config)
        config._attn_implementation = model.config._attn_implementation
        return random_model(kind, config, seed)
    except Exception as error:  # whatever a configuration class may raise
        raise InputError(
            f"no small {model.config.model_type} model can be made: {' '.join(str(error).split())[:200]}"
        ) from error


def random_model(kind: Any, config: Any, seed: int = 0) -> Any:
    """A model of class `kind` with weights that are large enough for every part to show in its logits."""
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        made = kind._from_config(config, dtype=torch.float32) if hasattr(kind, "_from_config") else kind(config)
        with torch.no_grad():
            _enlarge(made)
    finally:
        torch.random.set_rng_state(state)
    return made.float().eval().requires_grad_(False)


def _enlarge(model: nn.Module) -> None:
    """Draw matrices anew: transformers' own are so small that a layer hardly changes what passes it."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if "log" in name.lower() or name in ("D", "dt", "dt_bias"):
                continue
            if weight.ndim < 2:  # gates and biases that begin at 0 would hide what they let through
                weight.add_(torch.randn_like(weight), alpha=0.2)
                continue
            if isinstance(module, nn.Embedding):
                weight.normal_()
                if module.padding_idx is not None:
                    weight[module.padding_idx] = 0
            elif type(module).__name__ == "Conv1D":  # of gpt2: transposed
                weight.normal_(std=1.5 / math.sqrt(weight.shape[0]))
            elif isinstance(module, nn.Linear) or (weight.ndim == 3 and not isinstance(module, nn.Conv1d)):
                weight.normal_(std=1.5 / math.sqrt(weight.shape[-1]))


def small(config: Any) -> Any:
    """A configuration of the same class and options with small sizes; of each kind of layer there is one at least."""
    body = shrunk(config.to_dict())
    return type(config).from_dict(body)


def shrunk(body: Body) -> Body:
    """The fields of a configuration with small sizes."""
    found = copy.deepcopy(body)
    cut_layers(found)
    heads = next(
        (v for k in ("num_attention_heads", "n_head", "n_heads", "num_heads") if isinstance(v := body.get(k), int)), 0
    )
    for key, value in list(found.items()):
        if isinstance(value, dict) and (key.endswith("config") or key in TEXT):
            found[key] = shrunk(value)
        elif key in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            found[key] = _rope(value, 8 if body.get("qk_rope_head_dim") else 16)
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[key] = _size(key, value, heads)
        elif key == "attention_window" and isinstance(value, list):
            found[key] = [WINDOW for _ in range(found.get("encoder_layers", len(value)))]
        elif key == "attn_layer_indices" and value:
            found[key] = [1]
        elif key == "cross_attention_layers" and value:  # of mllama: texts alone pass by them
            found[key] = [0]
        elif isinstance(value, list) and value and all(type(one) is int for one in value):
            found[key] = [_size(key, one, heads) for one in value]
    if body.get("qk_rope_head_dim") and body.get("head_dim") == body["qk_rope_head_dim"]:
        found["head_dim"] = found["qk_rope_head_dim"]
    if "expand" in body and "num_heads" in body:  # mamba2: heads of all that is expanded
        found["num_heads"] = found["expand"] * found["hidden_size"] // found["head_dim"]
    return found


def _size(key: str, value: int, heads: int) -> int:
    if TOKEN.fullmatch(key):
        return value if value < VOCABULARY else value % (VOCABULARY - 8) + 4
    if _KV_HEADS.fullmatch(key):
        return 1 if value == 1 else HEADS if value >= heads else 2
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, key):
            return min(size, value) if "window" in pattern or "chunk" in pattern else size
    return value


def _rope(value: Body, size: int) -> Body:
    """Rotations of heads of that size, of the plain kind."""
    if any(isinstance(part, dict) for part in value.values()):  # one for each type of layers
        return {key: _rope(part, size) if isinstance(part, dict) else part for key, part in value.items()}
    kept = {k: v for k, v in value.items() if k in ("rope_theta", "partial_rotary_factor", "mrope_interleaved")}
    if "mrope_section" in value:
        share = value.get("partial_rotary_factor", 1.0)
        half = int(size * share) // 2
        kept["mrope_section"] = _shared(value["mrope_section"], half)
    kind = "proportional" if value.get("rope_type") == "proportional" else "default"  # the former fills the whole head
    return {"rope_type": kind, "rope_theta": 10_000.0, **kept}


def _shared(parts: list[int], total: int) -> list[int]:
    """Parts of a total in the proportions of others, by their largest remainders."""
    quotas = [part * total / sum(parts) for part in parts]
    found = [int(one) for one in quotas]
    for i in sorted(range(len(parts)), key=lambda i: found[i] - quotas[i])[: total - sum(found)]:
        found[i] += 1
    return found


def cut_layers(body: Body) -> None:
    """Leave two layers of each kind, by what the lists with an entry a layer say."""
    counts = {k: v for k, v in body.items() if LAYER_COUNTS.fullmatch(k) and isinstance(v, int) and v > 0}
    pattern: list[Any] = next((body[k] for k in ("block_types", "_block_types") if isinstance(body.get(k), list)), [])
    for key, count in counts.items():
        body[key] = min(count, max(2, len(pattern)))
    total = body_layers(counts)
    if not total:
        return
    lists = {k: v for k, v in body.items() if isinstance(v, list) and len(v) == total and not TOKEN.fullmatch(k)}
    each = body.get("per_layer_config") or {}
    if not (lists or each):
        return
    kinds: dict[str, list[int]] = {}
    for i in range(total):
        kinds.setdefault(repr([v[i] for v in lists.values()]) + repr(_entry(each, i)), []).append(i)
    most = 2 if len(kinds) <= _LAYERS // 2 else 1
    stay = sorted(set([i for each_kind in kinds.values() for i in each_kind[:most]][:_LAYERS]) | {0, min(1, total - 1)})
    for key in counts:
        if counts[key] == total:
            body[key] = len(stay)
    for key, value in lists.items():
        body[key] = [value[i] for i in stay]
    if each:
        wide = max(len(str(k)) for k in each)
        renamed = {i: _entry(each, old) for i, old in enumerate(stay)}
        body["per_layer_config"] = {str(i).zfill(wide): shrunk(v) for i, v in renamed.items() if v is not None}


def _entry(each: Body, index: int) -> Any:
    return next((v for k, v in each.items() if int(k) == index), None)


def body_layers(counts: dict[str, int]) -> int:
    """Layers of the text part, by the names that configurations give their number."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
    return next((counts[name] for name in names if name in counts), 0)
