"""Linear layers of a frozen backbone with weights in oneDNN's packed order, for float32 on a CPU.

A frozen weight can be reordered once; the matrix product that torch calls by itself reorders it at every call, which
for the few hundred tokens of a micro-batch costs as much as the product. tests/bench measures what this brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

_HINT = 256  # tokens for which the order is chosen; any number may follow


class _Product(torch.autograd.Function):
    """x @ W.T + bias, differentiable in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: Tensor, bias: Tensor | None) -> Tensor:
        ctx.transposed = transposed  # a constant, so it need not be saved as a variable
        return _apply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _apply(gradients[0].contiguous(), ctx.transposed, None), None, None, None


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class PackedLinear(nn.Module):
    """A frozen linear layer: the same numbers as its original up to rounding (1e-6 relative).

    Attributes:
        weight, bias: those of the original, for whoever reads them; `forward` uses the packed copies.
    """

    def __init__(self, original: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        self.plain = False  # run as the original does, for `dept tune` to compare
        self._conv = isinstance(original, Conv1D)
        out_by_in = original.weight.detach() if isinstance(original, nn.Linear) else original.weight.detach().t()
        # Plain attributes: packed tensors can be neither saved nor moved, and need not be.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(out_by_in.contiguous(), _HINT)
        self._transposed = torch.ops.mkldnn._reorder_linear_weight(out_by_in.t().contiguous(), _HINT)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.plain:
            return functional.linear(x, self.weight.t() if self._conv else self.weight, self.bias)
        found: Tensor = _Product.apply(x, self._packed, self._transposed, self.bias)  # type: ignore[no-untyped-call]
        return found


def pack(model: Any, wanted: bool | None = None) -> bool:
    """Replace the linear layers of a frozen model by packed ones, the language-modelling head apart.

    Left alone where the weights are not float32 on a CPU, where torch was built without oneDNN, on processors without
    AVX2 or AVX-512, for which oneDNN has no packed kernels, and where the packed copies (two times the layers' memory)
    are more than a quarter of the machine's memory.

    Args:
        wanted: what `dept tune` measured to be faster; default packed.

    Returns:
        Whether the layers were replaced.
    """
    head = model.get_output_embeddings()
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) in (nn.Linear, Conv1D) and child is not head
    ]
    suited = all(child.weight.dtype == torch.float32 and child.weight.device.type == "cpu" for _, _, child in layers)
    if wanted is False or not (layers and suited and _has_kernels()):
        return False
    size = 2 * sum(child.weight.nbytes for _, _, child in layers)
    if size > psutil.virtual_memory().total / 4:
        return False
    for parent, name, child in layers:
        setattr(parent, name, PackedLinear(child))
    return True


def _has_kernels() -> bool:
    built_in: bool = torch.backends.mkldnn.is_available()
    return built_in and torch.backends.cpu.get_cpu_capability().startswith("AVX")


@contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Let packed layers run on their plain weights while the block runs."""
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    for layer in layers:
        layer.plain = True
    try:
        yield
    finally:
        for layer in layers:
            layer.plain = False
