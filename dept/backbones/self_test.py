"""Whether a model can be used as a frozen backbone: found out when it is loaded, not in the middle of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infra.errors import InputError

# Families whose head is known to be a plain linear map of the last hidden state; others are checked when loaded.
_PLAIN_HEADS = {"llama", "gpt2", "mistral", "qwen2", "qwen3"}


def check_head(name: str, model: Any) -> None:
    """Refuse a model without a language-modelling head.

    Raises:
        InputError: it has none.
    """
    if model.get_output_embeddings() is None:
        raise InputError(
            f"backbone {name}: a {model.config.model_type} model without a language-modelling head. Remedy: a model "
            "for causal or text-to-text generation"
        )


def check_causal(name: str, model: Any, head: Callable[[Tensor], Tensor]) -> None:
    """Refuse a causal model that DePT cannot be trained on.

    Args:
        head: logits of last hidden states, as the backbone computes them.

    Raises:
        InputError: it takes no input embeddings or positions, or its head is not linear.
    """
    kind = f"a {model.config.model_type} model"
    accepted = inspect.signature(model.base_model.forward).parameters
    missing = [p for p in ("inputs_embeds", "position_ids", "cache") if p not in accepted]
    if missing:
        raise InputError(
            f"backbone {name}: {kind} does not accept {', '.join(missing)}, which DePT needs. Remedy: "
            "another backbone, such as smollm2-135m or a llama, gpt2 or t5 model"
        )
    weight = next(model.parameters())
    if model.config.model_type in _PLAIN_HEADS or weight.device.type == "meta" or hasattr(weight, "ds_id"):
        return
    with torch.no_grad():
        ids = torch.arange(3, device=weight.device)[None]
        ours, theirs = head(model.base_model(ids).last_hidden_state), model(ids).logits
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise InputError(f"backbone {name}: the head of {kind} is not a plain linear map; not supported")
