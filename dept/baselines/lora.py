"""LoRA through peft, an optional extra: the only file of the product that imports it.

LoRA adds a low-rank product B @ A to frozen projections (arXiv 2106.09685); here to every linear layer but the one that
gives the logits, at alpha 32 and the scale alpha / rank, as https://thinkingmachines.ai/blog/lora/ found it to be level
with full fine-tuning, at about ten times its learning rate.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dept.baselines.need_peft import need_peft
from dept.baselines.text_part import text_part
from dept.constants import CONSTANTS
from dept.trial import Method
from infra.errors import InputError


def layers(model: Any) -> list[Any]:
    """The linear layers that LoRA changes, those of peft's "all-linear": all but the one that gives the logits.

    Raises:
        InputError: a model without any.
    """
    head = model.get_output_embeddings()
    part = text_part(model)
    found = [layer for layer in part.modules() if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head]
    if not found:
        kind = getattr(model.config, "model_type", "plain")
        raise InputError(
            f"method lora: a {kind} model has no linear layers. Remedy: method full or dept for this backbone"
        )
    return found


def numbers(model: Any) -> int:
    """Trainable numbers of LoRA for each unit of rank: inputs and outputs of every layer.

    Raises:
        InputError: see `layers`.
    """
    return sum(int(sum(layer.weight.shape)) for layer in layers(model))


def rank_of(method: Method, model: Any, budget: int) -> int:
    """Rank of a method on a model: its own, or the highest that trains at most `budget` numbers, 1 at least.

    Raises:
        InputError: see `layers`.
    """
    own = CONSTANTS[method]["rank"]
    return own if isinstance(own, int) else max(1, budget // numbers(model))


def attach(model: Any, rank: int, seed: int) -> Any:
    """Put LoRA of `rank` into a frozen model, in place; B is 0, so the model computes what it computed before.

    The scale is 32 / rank, without dropout. Where the model is bfloat16, LoRA is float32.

    Args:
        seed: draws A (Kaiming-uniform, peft's default), without touching torch's own generator.

    Returns:
        peft's wrapper, for `save` and `detach`; the model itself is run as before.

    Raises:
        InputError: peft is not installed, or a model without linear layers.
    """
    need_peft()
    layers(model)
    from peft import LoraConfig, TaskType, get_peft_model

    writes = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(
        task_type=writes if hasattr(model, "prepare_inputs_for_generation") else TaskType.FEATURE_EXTRACTION,
        r=rank,
        lora_alpha=int(CONSTANTS["lora"]["alpha"]),
        lora_dropout=0.0,
        target_modules=_targets(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers; no one here can act on it
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    return wrapped.eval()


def _targets(model: Any) -> str | list[str]:
    """Which layers peft is told to change."""
    if text_part(model) is model:
        return str(CONSTANTS["lora"]["layers"])
    own = set(map(id, layers(model)))
    return [name for name, module in model.named_modules() if id(module) in own]


def detach(wrapped: Any) -> None:
    """Take LoRA out of the model again, in place: the original layers are what remains."""
    wrapped.unload()


def save(wrapped: Any, folder: Path, backbone: str) -> None:
    """Write peft's own files into `folder`; `PeftModel.from_pretrained(model, folder)` reads them.

    Args:
        backbone: the backbone's name for the file, in place of its folder on this machine.
    """
    for config in wrapped.peft_config.values():
        config.base_model_name_or_path = backbone
        config.target_modules = sorted(config.target_modules)  # of a set, so that equal files are equal
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
    for name in ("README.md", ".gitattributes"):  # a model card without content
        (folder / name).unlink(missing_ok=True)
