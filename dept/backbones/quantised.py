"""Frozen weights of 8 and 4 bits: where they can be had, asked for by a number type or as files hold them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dept.config import QUANTISED
from infra.errors import InputError


def check_quantised(dtype: str, device: str) -> None:
    """Refuse weights of 8 or 4 bits where they cannot be had.

    Raises:
        InputError: the device is no CUDA one.
    """
    if dtype in QUANTISED and not device.startswith("cuda"):
        raise InputError(
            f"dtype {dtype}: frozen weights of 8 and 4 bits need a CUDA device, and this is {device}. Remedy: float32 "
            "or bfloat16, or device cuda"
        )


def check_files(name: str, config: Mapping[str, Any], dtype: str | None, device: str | None) -> None:
    """Refuse files whose weights are quantised already, where they cannot be had.

    Elsewhere than on CUDA some libraries have kernels without a derivative, through which prompts learn nothing and no
    error is raised; and some quantisations are left out without a word.

    Args:
        name: of the backbone, for messages.
        config: what config.json holds.
        dtype: that is asked for; None: as the files have it.
        device: None: not known yet.

    Raises:
        InputError: the device is no CUDA one, or they would be quantised twice.
    """
    how = how_quantised(config)
    if how and device is not None and not device.startswith("cuda"):
        raise InputError(
            f"backbone {name}: its files hold quantised weights ({how}), which need a CUDA device, and this is "
            f"{device}. Remedy: the model's files in float32 or bfloat16, or device cuda"
        )
    if how and dtype in QUANTISED:
        raise InputError(
            f"backbone {name}: its files hold quantised weights ({how}) already. Remedy: leave dtype {dtype} out, or "
            "use the model's files in bfloat16"
        )


def how_quantised(config: Mapping[str, Any]) -> str:
    """Who has quantised the weights beside a config.json, as it says itself; "" for nobody."""
    for body in (config, *(part for part in config.values() if isinstance(part, Mapping))):
        if isinstance(found := body.get("quantization_config"), Mapping) and found:
            return str(found.get("quant_method") or "of an unnamed method")
    return ""
