"""What baselines train of a model: all of it, or what reads its text where it reads pictures as well.

A picture's vectors are computed once, by frozen parts; an adapter does not reach these either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def text_part(model: Any) -> nn.Module:
    """The model, or its text decoder."""
    sees = "image" in (getattr(model, "input_modalities", None) or ()) and not model.config.is_encoder_decoder
    found: nn.Module = model.get_decoder() if sees else model
    return found


def trained(model: Any) -> Iterator[nn.Parameter]:
    """The weights of that part and of what gives the logits, each once."""
    part = text_part(model)
    if part is model:
        yield from model.parameters()
        return
    own = {id(parameter) for module in (part, model.get_output_embeddings()) for parameter in module.parameters()}
    yield from (parameter for parameter in model.parameters() if id(parameter) in own)
