"""LoRA through peft, an optional extra: the only file of the product that imports it.

LoRA adds a low-rank product B @ A to frozen projections (arXiv 2106.09685); here to query and value, as its authors do.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from infra.errors import InputError

# Names of the query and value projections: Llama and its kin, T5, GPT-2 and GPT-NeoX (query, key and value in one).
_TARGETS = (("q_proj", "v_proj"), ("q", "v"), ("c_attn",), ("query_key_value",), ("qkv_proj",))


def need_peft() -> None:
    """Say early that the extra is missing.

    Raises:
        InputError: peft is not installed.
    """
    try:
        found = find_spec("peft") is not None
    except ValueError:  # an entry without a spec in sys.modules
        found = False
    if not found:
        raise InputError('method lora needs peft, which is not installed. Remedy: pip install "peft>=0.17"')


def targets(model: nn.Module) -> list[str]:
    """Last names of the modules that LoRA changes: query and value projections, or the one that holds them.

    Raises:
        InputError: a model whose projections have other names.
    """
    there = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    for names in _TARGETS:
        if there.issuperset(names):
            return list(names)
    kind = getattr(model.config, "model_type", "plain")
    raise InputError(
        f"method lora: a {kind} model has no projections named "
        f"{' or '.join('/'.join(names) for names in _TARGETS)}. Remedy: method full or dept for this backbone"
    )


def attach(model: Any, rank: int, seed: int) -> Any:
    """Put LoRA of `rank` into a frozen model, in place; B is 0, so the model computes what it computed before.

    The scale is 8 / rank (peft's default lora_alpha), without dropout. Where the model is bfloat16, LoRA is float32.

    Args:
        seed: draws A (Kaiming-uniform, peft's default), without touching torch's own generator.

    Returns:
        peft's wrapper, for `save` and `detach`; the model itself is run as before.

    Raises:
        InputError: peft is not installed, or a model without known projections.
    """
    need_peft()
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=targets(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers; no one here can act on it
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    return wrapped.eval()


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
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
    for name in ("README.md", ".gitattributes"):  # a model card without content
        (folder / name).unlink(missing_ok=True)
