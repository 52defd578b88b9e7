"""Which kind of backbone a model is, from its configuration; no torch where its classes tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dept.backbones.tokens import Family

_WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # classes of models that continue a text
_FILLS_IN = ("ForMaskedLM", "WithLMHeadModel")  # of models that fill in what is masked; the latter xlm's and flaubert's


def family_of(config: Mapping[str, Any]) -> Family:
    """The kind of a model: `seq2seq` (encoder-decoder), `encoder` (its tokens see what follows them) or `causal`.

    Args:
        config: what its config.json holds; `architectures` are the classes that its weights were saved from.
    """
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if config.get("is_decoder") or config.get("causal"):
        return "causal"
    if fills_in(config):
        return "encoder"
    names = _architectures(config)
    if any(name.endswith(_WRITES) for name in names):
        return "causal"
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES  # imports torch

    return "encoder" if config.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "causal"


def fills_in(config: Mapping[str, Any]) -> bool:
    """Whether weights were saved with a masked-LM head, so that words can be told at masks."""
    return any(name.endswith(_FILLS_IN) for name in _architectures(config))


def _architectures(config: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in config.get("architectures") or ()]
