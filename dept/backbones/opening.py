"""Open a backbone: from its name to a model on its device, in the way it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dept.backbones import cpu_linear, files, tuned
from dept.backbones.compiled import compile_layers
from dept.backbones.describe import default_dtype
from dept.backbones.loading import DTYPES, load_model, load_tokenizer, pick_device, quantised, same_bits_twice
from dept.backbones.processor import Processor
from dept.backbones.quantised import check_files
from dept.config import QUANTISED
from infra.errors import InputError
from infra.settings import settings

Made = TypeVar("Made", bound=Any)


def opened(
    of: Callable[..., Made], name_or_path: str, dtype: str | torch.dtype | None, device: str | None, compile: bool
) -> Made:
    """What `Backbone.from_pretrained` gives.

    Args:
        of: makes a backbone of model, tokenizer, name, folder and processor.

    Raises:
        InputError: see `Backbone.from_pretrained`.
    """
    place = pick_device(device)
    if dtype is None:
        dtype = default_dtype(place.type)
    bits = dtype if isinstance(dtype, str) and dtype in QUANTISED else ""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"backbone: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    folder = files.folder_of(name_or_path)
    check_files(files.short_name(name_or_path), files.json_of(folder / "config.json"), bits or None, place.type)
    if place.type == "cuda":
        same_bits_twice()
    model = load_model(str(folder), dtype, quantised(bits, place)) if bits else load_model(str(folder), dtype)
    tokenizer = load_tokenizer(str(folder))
    processor, blind = None, ""
    if files.reads_pictures(folder):
        try:
            processor = Processor.load(folder, tokenizer)
        except InputError as error:  # texts alone need none
            blind = str(error)
    made = of(model if bits else model.to(place), tokenizer, files.short_name(name_or_path), folder, processor)
    made.bits = bits
    made.blind = made.blind or blind
    found = tuned.read(made.config, made.device)
    made.packed = made.way.repacks and cpu_linear.pack(made.model, found.packed)
    if compile or settings().compile or found.compiled:
        made.compiled = compile_layers(made.model)
    return made
