"""The same loop under DeepSpeed: ZeRO-3 shards the frozen backbone over ranks, each rank holds all adapters.

Runs inside a rank (`ranks.py`); the flow's side is `launch.py`. ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054.
The adapters are inputs of the backbone, not parameters of it, so the engine needs no optimizer: its hooks gather a
module's weights before it runs, forward and backward, and drop them after.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Any

import deepspeed
import torch
import torch._dynamo  # imported lazily by transformers; inside zero.Init, which patches new classes, that would fail
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from dept.backbones.backbone import Backbone, CausalBackbone, EncoderDecoderBackbone
from dept.backbones.family import family_of
from dept.backbones.files import folder_of, json_of, short_name
from dept.backbones.loading import DTYPES, class_of, load_model, load_tokenizer, same_bits_twice
from infra.errors import InputError

COLLECTIVE_MINUTES = 30


def join_ranks() -> tuple[int, str]:
    """Meet the other ranks; this rank's number and device. gloo between CPUs, NCCL between CUDA devices."""
    # DeepSpeed would fill this table by running compilers, and compile what it finds; no operator of it is used here.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    cuda = torch.cuda.is_available()
    place = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(place)
    deepspeed.init_distributed(
        dist_backend="nccl" if cuda else "gloo", verbose=False, timeout=datetime.timedelta(minutes=COLLECTIVE_MINUTES)
    )
    return torch.distributed.get_rank(), place


def engine_config(dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's settings: every weight is sharded, however small, and none is fetched ahead of its use."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_reuse_distance": 0,
        },
    }


class Sharded(Backbone):
    """A backbone of whose weights this rank holds its share; otherwise as its kind, called by all ranks at once."""

    sharded = True

    def attach(self, config: dict[str, Any]) -> None:
        """Give the model to a DeepSpeed engine, whose hooks gather weights where they are needed."""
        engine, *_ = deepspeed.initialize(model=self.model, config=config)
        object.__setattr__(self, "engine", engine)  # not a submodule: it holds this model itself
        self.offload = engine.optimizer
        # Prompts, texts and validations run the modules in ever new orders, so the engine must not learn one: it learns
        # where its root module starts, and without this hook it never does.
        self.offload.fwd_pre_hook.remove()

    @property
    def d(self) -> int:
        """Width of the input embeddings; the weight itself is empty while it is not in use."""
        return int(self.model.get_input_embeddings().weight.ds_shape[1])


class ShardedCausal(Sharded, CausalBackbone):
    """See `Sharded`."""

    def run_prefix(self, prompts: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor] | None:
        """As `CausalBackbone.run_prefix`, with a backward pass that may come after those of other forward passes."""
        if (ran := super().run_prefix(prompts)) is None:
            return None
        keys, values, hidden = ran
        if not hidden.requires_grad:
            return keys, values, hidden
        *tensors, hidden = _Resume.apply(self, *keys, *values, hidden)  # type: ignore[no-untyped-call]
        return list(tensors[: len(keys)]), list(tensors[len(keys) :]), hidden


class ShardedEncoderDecoder(Sharded, EncoderDecoderBackbone):
    """See `Sharded`."""


def load_sharded(name_or_path: str, dtype: str, device: str) -> Sharded:
    """Load a backbone sharded: at no time does a rank other than 0 hold it whole.

    Raises:
        InputError: see `Backbone.from_pretrained`.
    """
    if device.startswith("cuda"):
        same_bits_twice()  # all ranks decide alike
    folder = folder_of(name_or_path)
    if (family := family_of(json_of(folder / "config.json"))) == "encoder":
        raise InputError(f"backbone {short_name(name_or_path)}: ranks do not share an encoder. Remedy: engine local")
    _import_classes(str(folder))
    config = engine_config(DTYPES[dtype])
    held = HfDeepSpeedConfig(config)  # while it lives, transformers creates models inside deepspeed.zero.Init
    try:
        model = load_model(str(folder), DTYPES[dtype])
    finally:
        del held
        unset_hf_deepspeed_config()
    kind: type[Sharded] = ShardedEncoderDecoder if family == "seq2seq" else ShardedCausal
    backbone = kind(model.to(device), load_tokenizer(str(folder)), short_name(name_or_path), folder)
    if not backbone.way.fast:  # ranks must run the modules as often as each other, and rows of one length do not
        raise InputError(
            f"backbone {backbone.name}: a {model.config.model_type} model is computed row by row, which ranks cannot "
            "share. Remedy: engine local"
        )
    backbone.attach(config)
    return backbone


class _Resume(torch.autograd.Function):
    """The identity; its backward brings the engine's bookkeeping back to where the forward pass left it.

    DeepSpeed counts a module's inputs that await a gradient, drops its weights when the count reaches 0, and counts
    anew at each forward pass. The texts run between the prompts' forward and backward passes: as they leave it, the
    count misses 0 and the whole backbone stays gathered. The last hidden states get a gradient of zeros, since
    DeepSpeed expects one at the output of every module.
    """

    @staticmethod
    def forward(ctx: Any, backbone: Sharded, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.awaited = {m: m.ds_grads_remaining for m in backbone.model.modules() if hasattr(m, "ds_grads_remaining")}
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        for module, count in ctx.awaited.items():
            module.ds_grads_remaining = count
        return (None, *gradients)


def gathered(backbone: Backbone) -> int:
    """Numbers of the backbone that are not sharded right now."""
    return sum(p.ds_numel for p in backbone.model.parameters() if p.ds_status != ZeroParamStatus.NOT_AVAILABLE)


def check_shares(backbone: Backbone, size: int) -> dict[str, int]:
    """Make sure that this rank holds 1/size of the backbone's numbers, rounded up for each weight, and no more.

    Returns:
        held: numbers in this rank's memory; total: numbers of the backbone.

    Raises:
        RuntimeError: it does not.
    """
    weights = list(backbone.model.parameters())
    total = sum(p.ds_numel for p in weights)
    held = sum(p.ds_tensor.numel() + p.numel() for p in weights)
    if gathered(backbone) or not total <= held * size <= total + len(weights) * size:
        raise RuntimeError(f"this rank holds {held} of the backbone's {total} numbers; 1 in {size} was expected")
    return {"held": held, "total": total}


def _import_classes(folder: str) -> None:
    """Make transformers import a model's classes now, by an empty model: inside zero.Init these imports fail."""
    from transformers import AutoConfig

    # What cannot be read here cannot be loaded either, and load_model then says why.
    with contextlib.suppress(Exception), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder)
        class_of(config).from_config(config)
