"""What a configuration (its JSON) says of a model's sizes: width, tokens, positions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.errors import InputError

_WIDTHS = (
    "word_embed_proj_dim",
    "input_embedding_size",
    "embedding_size",
    "hidden_size",
    "d_model",
    "n_embd",
    "dim",
    "emb_dim",
)
_STATES = ("hidden_size", "d_model", "n_embd", "dim", "emb_dim")
_PARTS = ("text_config", "thinker_config", "llm_config", "language_config", "lm_config")
_READERS = ("encoder", "text_encoder", "encoder_config")  # of encoder-decoders: what reads the text
_WRITERS = ("decoder", "decoder_config")
# Learned positions that begin behind the padding token's id: so many fewer of them are of use.
_BEHIND_PAD = {
    *("roberta", "roberta-prelayernorm", "camembert", "xlm-roberta", "xlm-roberta-xl", "xmod", "data2vec-text"),
    *("longformer", "ibert", "esm", "luke", "mluke", "mpnet", "markuplm", "lilt", "layoutlmv3"),
}


def text_of(config: Mapping[str, Any], parts: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of the part that reads token embeddings, over those of the whole; of one part all there are.

    What the whole says of its tokens (`eos_token_id`) counts.

    Args:
        parts: names of parts that are asked for first; default those that read, of an encoder-decoder.
    """
    first = parts or (_READERS if config.get("is_encoder_decoder") else ())
    found = next((config[key] for key in (*first, *_PARTS, *_WRITERS) if isinstance(config.get(key), Mapping)), None)
    if found is None:
        return dict(config)
    own = {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
    return {**config, **text_of(found), **own}


def width_of(text: Mapping[str, Any]) -> int | None:
    """Width of the input embeddings; None where no field names it.

    Args:
        text: what `text_of` gives.
    """
    return next((int(text[key]) for key in _WIDTHS if isinstance(text.get(key), int) and text[key]), None)


def hidden_of(text: Mapping[str, Any]) -> int | None:
    """Width of the hidden states, where it is not that of the input embeddings (electra, albert); None: not named."""
    return next((int(text[key]) for key in _STATES if isinstance(text.get(key), int) and text[key]), None)


def room_of(config: Mapping[str, Any]) -> int | None:
    """Positions that a configuration makes room for, prompt and text together; None where there is no end.

    Those of the text part, where there are several. Rotations that change with the length of what is read (longrope,
    dynamic) end where they would change: a prompt that runs once for texts of all lengths can be rotated in one way.
    Attention to the `index_topk` best tokens ends there too: which of equals they are hangs on the length of the row.
    """
    text = text_of(config)
    learned = text.get("model_type") in _BEHIND_PAD
    if text.get("relative_attention_num_buckets") and not learned:
        return None  # as t5: of no length
    names = ("max_encoder_position_embeddings", "n_positions", "max_position_embeddings", "max_seq_len", "max_seqlen")
    found = _first(text, names)
    if found is not None and learned:
        pad = 1 if text.get("model_type") == "mpnet" else int(text.get("pad_token_id") or 0)  # which asks no one
        found -= pad + 1
    if found and (window := text.get("attention_window")):  # longformer fills rows up to whole windows
        widest = max(window) if isinstance(window, list) else int(window)
        found -= found % min(found, widest)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = {rope.get("rope_type", rope.get("type"))} | {
        one.get("rope_type") for one in rope.values() if isinstance(one, dict)
    }
    if kinds & {"longrope", "dynamic"}:
        first = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
        found = min(filter(None, (found, first)), default=None)
    sparse = None
    if text.get("attention_type") == "block_sparse":  # big_bird: up to here all tokens are seen, however long a row is
        sparse = (5 + 2 * int(text.get("num_random_blocks", 3))) * int(text.get("block_size", 64))
    return min(filter(None, (found, text.get("index_topk"), sparse)), default=None)


def answer_room_of(config: Mapping[str, Any]) -> int | None:
    """Positions of an encoder-decoder's decoder: tokens of an answer, its end counted; None where there is no end."""
    text = text_of(config, _WRITERS)
    if text.get("relative_attention_num_buckets"):
        return None
    return _first(text, ("max_decoder_position_embeddings", "n_positions", "max_position_embeddings"))


def check_room(name: str, positions: int | None, m: int, s: int) -> None:
    """Refuse a prompt and text longer than a backbone's positions.

    Raises:
        InputError: m + s is more than the backbone has positions.
    """
    if positions and m + s > positions:
        raise InputError(f"backbone {name} has {positions} positions; m + s = {m + s}. Remedy: a smaller s or m")


def check_answers(name: str, positions: int | None, longest: int) -> None:
    """Refuse answers longer than an encoder-decoder's decoder has positions.

    Raises:
        InputError: so they are.
    """
    if positions and longest > positions:
        raise InputError(
            f"backbone {name}: its decoder has {positions} positions; an answer takes {longest} tokens. Remedy: "
            "shorter answers (answer_length, or words, in the task)"
        )


def _first(text: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(text[name]) for name in names if isinstance(text.get(name), int) and text[name] > 0), None)
