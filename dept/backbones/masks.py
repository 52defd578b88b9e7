"""Attention masks of causal models by position, so that windows hold behind a prompt's cache and in packed rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dept.backbones.ways import Masks

_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_window_size")


def see_prompt(allowed: Tensor, m: int) -> Tensor:
    """Attention mask [R, 1, T, m + T]: text tokens see all m prompt tokens and `allowed` [R, T, T] of the text."""
    return torch.cat([allowed.new_ones(*allowed.shape[:2], m), allowed], dim=2)[:, None]


def behind_prompt(positions: Tensor, m: int) -> Tensor:
    """Positions [R, m + T] of a prompt of m and of what stands behind it at `positions` [R, T]."""
    front = torch.arange(m, device=positions.device).expand(len(positions), -1)
    return torch.cat([front, positions], dim=1)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, the least number elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def for_layers(
    masks: Masks,
    config: Any,
    allowed: Tensor,
    positions: Tensor,
    places: Tensor,
    dtype: torch.dtype,
    both: Tensor | None = None,
) -> Tensor | dict[str, Tensor]:
    """What a model's layers take as attention mask.

    Args:
        config: the model's, whose text part names windows and types of layers.
        allowed: bool [R, 1, T, K], True where a token may look but for windows.
        positions: [R, T] of the tokens that look. places: [R, K] of those that are looked at.
        both: bool [R, T, T], tokens that see each other whatever stands in `allowed`, windows or not (pictures).

    Raises:
        ValueError: a type of layers whose mask is not known here.
    """

    def add(seen: Tensor) -> Tensor:
        return additive(seen if both is None else seen | behind_cache(both, seen.shape[-1]), dtype)

    if masks == "one":
        return add(allowed)
    text = config.get_text_config()
    ahead, behind = positions[:, None, :, None], places[:, None, None, :]
    if masks == "window":
        return add(allowed & (ahead - behind < window_of(text)))
    made = {}
    for kind in sorted(set(text.layer_types)):
        if kind == "full_attention":
            seen = allowed
        elif kind == "sliding_attention":
            seen = allowed & (ahead - behind < window_of(text))
        elif kind == "chunked_attention":
            size = text.attention_chunk_size
            seen = allowed & (ahead // size == behind // size)
        else:
            raise ValueError(f"layers of type {kind}")
        made[kind] = add(seen)
    return made


def behind_cache(both: Tensor, width: int) -> Tensor:
    """[R, 1, T, width] of [R, T, T]: nothing of what a cache holds."""
    return torch.nn.functional.pad(both, (width - both.shape[-1], 0))[:, None]


def window_of(text: Any) -> int:
    """Tokens that a layer with a window sees.

    Raises:
        ValueError: the configuration names none.
    """
    for name in _WINDOWS:
        if isinstance(found := getattr(text, name, None), int) and found > 0:
            return found
    raise ValueError("layers of a window whose length the configuration does not name")
