"""How an adapter starts: prompt from vocabulary text or from a source adapter; A kaiming-uniform; B zero."""

from __future__ import annotations

import math

import torch

from dept.adapter import Adapter
from dept.backbone import Backbone
from dept.config import AdapterConfig
from tasks.errors import InputError


def from_text(backbone: Backbone, config: AdapterConfig, text: str, seed: int) -> Adapter:
    """Adapter whose prompt is the embeddings of `text`, repeated or cut to m tokens (the authors' TEXT start).

    A ~ kaiming_uniform(a=sqrt(5)), drawn from `seed` on the CPU, so that every device starts alike; B = 0, so the
    low-rank pair starts at zero.

    Raises:
        InputError: a text without a token.
    """
    ids = backbone.encode_texts([text])[0]
    if not ids:
        raise InputError("prompt_text: holds no token. Remedy: a few words that name the task")
    ids = (ids * math.ceil(config.m / len(ids)))[: config.m]
    with torch.no_grad():
        prompt = backbone.embed(torch.tensor(ids, device=backbone.device)).float().cpu()
    bound = 1 / math.sqrt(config.r)  # kaiming_uniform with a=sqrt(5) on [s, r]: fan_in = r
    a = torch.empty(config.s, config.r).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    return Adapter(prompt, a, torch.zeros(config.r, backbone.d), alpha=config.alpha, layout=config.layout)


def from_source(source: Adapter, config: AdapterConfig) -> Adapter:
    """Adapter that starts as a copy of a source adapter (paper section 3.4).

    Raises:
        InputError: the source has another shape or layout than the target asks for.
    """
    if source.config != config:
        raise InputError(
            f"source adapter has {source.config}, the target asks for {config}. Remedy: the same m, r, s, "
            "alpha and layout for both"
        )
    copy = Adapter(source.prompt, source.a, source.b, alpha=source.alpha, layout=source.layout)
    copy.metadata = {"source_sha256": source.sha256}
    return copy
