"""Weights over source adapters, learned on a few shots: the idea of ATTEMPT (https://arxiv.org/abs/2205.11961).

All targets learn their weights at once. A convex combination of the products A @ B of n sources is one product of rank
n * r, so the mixtures form a stack like any other; the gradient of a mixture's adapter goes on to its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.engine.gradients import accumulate, weights_of
from dept.engine.memory import token_budget, within_memory
from dept.engine.parallel import Local, Parallel

Key = TypeVar("Key", bound=Hashable)
RATE = 0.3  # of Adam on the logits of the weights: a few steps move a weight from 1/n to near 0 or 1


def mixed(sources: Tensors, weights: Tensor) -> Tensors:
    """Mixtures of n sources P [n, m, d], A [n, s, r], B [n, r, d] by weights [C, n]: C adapters of rank n * r."""
    n, s, r = sources.a.shape
    prompt = torch.einsum("cn,nmd->cmd", weights, sources.prompt)
    a = torch.einsum("cn,nsr->csnr", weights, sources.a).reshape(len(weights), s, n * r)
    b = sources.b.reshape(1, n * r, -1).expand(len(weights), -1, -1)
    return Tensors(prompt, a, b, sources.scale[:1].expand(len(weights)))


def learn_weights(
    backbone: Backbone,
    sources: Sequence[Adapter],
    rows: Mapping[Key, Sequence[Row]],
    steps: int,
    on_tokens: Callable[[int], None] | None = None,
    parallel: Parallel | None = None,
) -> dict[Key, list[float]]:
    """Convex weights over the sources per target, by `steps` of Adam on the loss of all its shots.

    Args:
        sources: adapters of one shape.
        rows: the shots of each target, with the right candidate alone.
        on_tokens: called with the real tokens of each micro-batch.
        parallel: how ranks share a step; default one process alone.

    Returns:
        For each target one weight per source, not negative, of sum 1.
    """
    fixed = Tensors.of(sources, backbone.device)
    fixed = Tensors(fixed.prompt.detach(), fixed.a.detach(), fixed.b.detach(), fixed.scale)
    logits = torch.zeros(len(rows), len(sources), device=backbone.device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    items = [(adapter_id, row) for adapter_id, part in enumerate(rows.values()) for row in part]
    counted = [weight for part in rows.values() for weight in weights_of(part)]
    budget = token_budget(backbone)
    for _ in range(steps):
        mixtures = mixed(fixed, logits.softmax(1))
        pair = (mixtures.prompt, mixtures.a)

        def attempt(budget: int, pair: tuple[Tensor, Tensor] = pair, like: Tensors = mixtures) -> list[Tensor]:
            leaves = [part.detach().requires_grad_() for part in pair]
            tensors = Tensors(leaves[0], leaves[1], like.b, like.scale)
            accumulate(backbone, tensors, items, counted, budget, parallel, on_tokens)
            return [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]

        gradients, budget = within_memory(backbone, attempt, budget, max(row.length for _, row in items))
        (parallel or Local()).sum(gradients)
        optimizer.zero_grad()
        torch.autograd.backward(pair, gradients)
        optimizer.step()
    return dict(zip(rows, logits.softmax(1).tolist(), strict=True))
