"""Whether a model can be used as a frozen backbone: found out when it is loaded, not in the middle of a run."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from infra.errors import InputError

if TYPE_CHECKING:
    from dept.backbones.backbone import Backbone

# Families whose head is known to be a plain linear map of the last hidden state; others are checked when loaded.
_PLAIN_HEADS = {"llama", "gpt2", "mistral", "qwen2", "qwen3"}


def check_usable(backbone: Backbone) -> None:
    """Refuse what DePT cannot be trained on.

    Raises:
        InputError: a model that takes no input embeddings or positions, or whose head is missing or not linear.
    """
    kind = type(backbone.model).__name__
    if backbone.model.get_output_embeddings() is None:
        raise InputError(
            f"backbone {backbone.name}: {kind} has no language-modelling head. Remedy: a model for "
            "causal or text-to-text generation"
        )
    if backbone.family == "seq2seq":
        return
    accepted = inspect.signature(backbone.model.base_model.forward).parameters
    missing = [p for p in ("inputs_embeds", "position_ids", "cache") if p not in accepted]
    if missing:
        raise InputError(f"backbone {backbone.name}: {kind} does not accept {', '.join(missing)}, which DePT needs")
    if (
        backbone.config.model_type in _PLAIN_HEADS
        or backbone.device.type == "meta"
        or hasattr(next(backbone.model.parameters()), "ds_id")
    ):
        return
    with torch.no_grad():
        ids = torch.arange(3, device=backbone.device)[None]
        ours, theirs = backbone.head(backbone.model.base_model(ids).last_hidden_state), backbone.model(ids).logits
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise InputError(f"backbone {backbone.name}: the head of {kind} is not a plain linear map; not supported")
