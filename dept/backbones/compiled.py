"""torch.compile for the layers of a frozen backbone that it may make faster, where it is asked for."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from dept.backbones.cpu_linear import PackedLinear


def compile_layers(model: Any) -> bool:
    """Compile a backbone's normalisation layers, and its feed-forward blocks where torch can trace them.

    The layers around the key-value cache would be compiled anew for every length. Where torch cannot compile on this
    machine, all stays as it was, and the log says so.

    Returns:
        Whether compiled code is in use.
    """
    parts = parts_of(model)
    try:
        switch(parts, True)
        with torch.no_grad():
            example = model.get_input_embeddings().weight[:3][None]
            norms = [part for part in parts if type(part).__name__.endswith("Norm")]
            norms[0](example)
    except Exception as error:  # whatever a compiler may raise on this machine
        switch(parts, False)
        logging.getLogger(__name__).warning("torch.compile is not used: %s", str(error).split("\n")[0])
        return False
    return True


def parts_of(model: Any) -> list[nn.Module]:
    """The layers that are worth it; blocks of packed layers cannot be traced."""
    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    endings = ("Norm",) if packed else ("Norm", "MLP", "FF")
    return [module for module in model.modules() if type(module).__name__.endswith(endings)]


def switch(parts: list[nn.Module], on: bool) -> None:
    """Compile layers, at their next call, or let them run as they are."""
    for part in parts:
        if on:
            part.compile(dynamic=True)
        else:
            part._compiled_call_impl = None
