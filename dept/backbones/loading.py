"""Load a backbone's model and tokenizer from their folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch

from dept.backbones.family import family_of, fills_in
from dept.backbones.files import cannot_load, reads_pictures
from dept.backbones.quantised import check_quantised
from dept.config import QUANTISED, Dtype
from infra.errors import InputError
from infra.quiet import errors_alone

DTYPES: dict[str, torch.dtype] = {  # what is computed in
    name: torch.bfloat16 if name in QUANTISED else getattr(torch, name) for name in get_args(Dtype)
}


def pick_device(wanted: str | None = None) -> torch.device:
    """The device to use: `wanted`, or CUDA where there is one, or the CPU.

    Raises:
        InputError: a device that is not there.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {wanted!r} is not there. Remedy: cpu, or mps, cuda or cuda:N where this machine has them"
        ) from error
    return device


def same_bits_twice() -> None:
    """Ask torch for CUDA kernels whose sums have one order; it warns where it has none.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def quantised(name: str, device: torch.device) -> dict[str, Any]:
    """How transformers is told to load weights of 8 or 4 bits on a CUDA device.

    `int8`, `nf4`: https://huggingface.co/docs/transformers/quantization/bitsandbytes; nf4: Dettmers et al. 2023, arXiv
    2305.14314. `int8-torchao`: https://huggingface.co/docs/transformers/quantization/torchao, weights alone, a scale
    for each row. torchao's 4 bits are no choice: torch has no derivative of their product, so nothing trains through
    them.

    Raises:
        InputError: another device, or the library is not installed.
    """
    check_quantised(name, device.type)
    library = QUANTISED[name]
    if find_spec(library) is None:
        raise InputError(f"dtype {name}: {library} is not installed. Remedy: pip install {library}")
    return {"quantization_config": _quantisation_of(name), "device_map": {"": device}}


def _quantisation_of(name: str) -> Any:
    """What transformers is given for a number type of 8 or 4 bits."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "int8":
        # It says for each matrix that bfloat16 becomes float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def load_model(source: str, dtype: torch.dtype, how: Mapping[str, Any] | None = None) -> Any:
    """Load a language model from a folder or the hub, with scaled-dot-product attention where it exists.

    Args:
        how: other arguments of transformers, see `quantised`.

    Raises:
        InputError: see `Backbone.from_pretrained`.
    """
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options = {"dtype": dtype, "output_loading_info": True, **(how or {})}
    try:
        config = AutoConfig.from_pretrained(source)
        pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
        if isinstance(pad, int) and isinstance(size, int) and pad >= size:  # added to the tokenizer, not to the table
            config.pad_token_id = 0  # any id pads: padding is masked
        auto = class_of(config, reads_pictures(Path(source)))
        with errors_alone("transformers"):
            try:
                model, found = auto.from_pretrained(source, config=config, attn_implementation="sdpa", **options)
            except ValueError as error:
                if "scaled_dot_product" not in str(error) and "sdpa" not in str(error):
                    raise
                model, found = auto.from_pretrained(source, config=config, **options)
    except Exception as error:  # transformers, hub and safetensors each raise their own
        raise cannot_load(source, error) from error
    missing = [key for key in sorted(found["missing_keys"]) if auto.__name__ != "AutoModel" or "pooler" not in key]
    if missing:  # transformers has filled them with random numbers
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"backbone {source!r}: its files hold no weights {missing[0]}{more}. Remedy: restore the files, or use "
            "those of a model with a language-modelling head"
        )
    return model


def class_of(config: Any, sees: bool = False) -> Any:
    """The class of transformers that loads a model; of an encoder without a masked-LM head the bare one.

    What the bare one pools (`pooler`) is not read.

    Args:
        sees: with the parts that read pictures, where a class for text leaves them out.
    """
    import transformers

    body = config.to_dict()
    family = family_of(body)
    sees = sees or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if family == "causal" and sees and type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    if family == "encoder":
        return transformers.AutoModelForMaskedLM if fills_in(body) else transformers.AutoModel
    return transformers.AutoModelForSeq2SeqLM if family == "seq2seq" else transformers.AutoModelForCausalLM


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer beside a model.

    Raises:
        InputError: see `Backbone.from_pretrained`.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # ValueError, KeyError, OSError or a decoder's error, by what is damaged
        raise cannot_load(source, error) from error


def digest_of_tensors(model: Any, start: bytes) -> str:
    """sha256 (hex) of `start` and of a model's tensors in memory, with their names."""
    digest = hashlib.sha256(start)
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
