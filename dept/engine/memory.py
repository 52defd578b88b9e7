"""How much of a step is computed at once: by rule, so that the bits of a run hang on no clock. And what is in use."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

import torch

from dept.backbones import tuned
from dept.backbones.backbone import Backbone

T = TypeVar("T")
_CPU = 1_200_000  # numbers in the embeddings of a micro-batch; fewer leave cores idle, more fall out of the caches
_CPU_BOUNDS, _CUDA_BOUNDS = (128, 4096), (512, 65_536)  # padded tokens
_PER_LAYER = 32  # numbers that training keeps of a token in each layer, in widths of the layer (frozen weights)
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")  # names of their number
_PER_WORD = 3  # bytes per token and word of the vocabulary: logits of the label positions, one in four, in float32
_SHARE = 0.5  # of a device's memory that a step may take beside the weights


def token_budget(backbone: Backbone) -> int:
    """Padded tokens per micro-batch: what `dept tune` found, else by rule from model, number type and device.

    On a CPU a constant number of embedded numbers, half of it in bfloat16; on CUDA as many tokens as a part of the
    device's memory holds. A power of two. Ranks of a sharded backbone go by the rule alone, so that all cut alike.
    """
    found = None if backbone.sharded else tuned.read(backbone.config, backbone.device).token_budget
    return found or budget_by_rule(backbone)


def budget_by_rule(backbone: Backbone) -> int:
    """See `token_budget`."""
    width = max(1, backbone.dtype.itemsize)
    if backbone.device.type != "cuda":
        return _power_of_two(_CPU * (1 if width >= 4 else 0.5) / backbone.d, *_CPU_BOUNDS)
    config = backbone.config
    whole = config, config.get_text_config()  # of a model of several parts the text's
    layers = next((int(v) for c in whole for n in _LAYERS if (v := getattr(c, n, 0))), 24)
    weights = sum(getattr(p, "ds_numel", p.numel()) for p in backbone.model.parameters()) * width
    each = _PER_LAYER * layers * backbone.d * width + _PER_WORD * backbone.tokens.vocab
    total = torch.cuda.get_device_properties(backbone.device).total_memory
    return _power_of_two((_SHARE * total - weights) / each, *_CUDA_BOUNDS)


def _power_of_two(value: float, least: int, most: int) -> int:
    return max(least, min(most, 1 << max(0, int(value).bit_length() - 1)))


def provenance(backbone: Backbone) -> dict[str, Any]:
    """What a backbone's numbers were computed on and with; kept with results, never part of a fingerprint.

    Returns:
        device, processor, torch, transformers (versions), token_budget (padded tokens per micro-batch), packed,
        compiled, tuned (whether `dept tune` set any of these), threads, sharded.
    """
    cuda = backbone.device.type == "cuda"
    return {
        "device": str(backbone.device),
        "processor": torch.cuda.get_device_name(backbone.device) if cuda else tuned.processor(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "token_budget": token_budget(backbone),
        "packed": backbone.packed,
        "compiled": backbone.compiled,
        "tuned": tuned.read(backbone.config, backbone.device) != tuned.Tuned(),
        "threads": torch.get_num_threads(),
        "sharded": backbone.sharded,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of this machine (torch says the latter in a plain RuntimeError)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def within_memory(backbone: Backbone, attempt: Callable[[int], T], budget: int, smallest: int) -> tuple[T, int]:
    """`attempt(budget)`, again with half the budget for as long as memory runs out.

    Not for a sharded backbone: a rank that cut its rows otherwise than the others would wait for them for ever.

    Args:
        attempt: called again after a failure, so it must cope with what it left half done.
        smallest: tokens of the longest row, below which nothing is gained.

    Returns:
        What `attempt` gave, and the budget it was given.
    """
    while True:
        try:
            return attempt(budget), budget
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or budget <= smallest or backbone.sharded:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget //= 2


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB; on CUDA the largest allocation."""
    return _peak_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu")) / 2**20


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
