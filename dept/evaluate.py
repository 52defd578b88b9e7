"""Label scoring: log-probabilities of the verbalizer's words, rows of many tasks and adapters in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dept import stack
from dept.adapter import Adapter
from dept.backbone import Backbone
from dept.batching import Row, collate, encode, micro_batches
from dept.tuning import token_budget, within_memory
from tasks import metrics

Progress = Callable[[int], None]
_WITHOUT_GRADIENTS = 4  # budgets are found in training, which keeps every layer's activations


@dataclass(frozen=True)
class Request:
    """A text whose label words are to be scored under one of several adapters."""

    text: str
    words: tuple[str, ...]
    adapter: int


@torch.inference_mode()
def score_rows(
    backbone: Backbone,
    tensors: stack.Tensors,
    items: Sequence[tuple[int, Row]],
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Log-probabilities (nats) of every branch of (adapter index, row) items, in their order.

    The prompts run once for the whole set, a text once for all its label words.

    Args:
        budget: padded tokens per micro-batch of training; evaluation takes four times as many.
        progress: called with the real tokens of each finished micro-batch.
    """
    if not items:
        return []
    prompts = stack.prefix(backbone, tensors)
    scores: list[list[float]] = [[] for _ in items]

    def attempt(budget: int) -> None:
        left = [i for i, found in enumerate(scores) if not found]
        for group in micro_batches([items[i] for i in left], budget, backbone.packs):
            batch = collate(group, backbone)
            flat = iter(stack.log_probs(backbone, batch, tensors, prompts).tolist())
            for pack in group:
                for index, row in zip(pack.indices, pack.rows, strict=True):
                    scores[left[index]] = [next(flat) for _ in row.branches]
            if progress is not None:
                progress(batch.tokens)

    budget = _WITHOUT_GRADIENTS * (budget or token_budget(backbone))
    within_memory(backbone, attempt, budget, max(row.length for _, row in items))
    return scores


def score(
    backbone: Backbone, adapters: Sequence[Adapter], requests: Sequence[Request], progress: Progress | None = None
) -> list[list[float]]:
    """Log-probability (nats) of each label word of each request; adapters may differ in shape and task.

    Raises:
        InputError: an adapter of another backbone, or words that the tokenizer cannot tell apart.
    """
    for adapter in adapters:
        adapter.check_fits(backbone.name, backbone.weights_id if "backbone_id" in adapter.metadata else "", backbone.d)
    rows: list[Row | None] = [None] * len(requests)
    by_kind: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for index, request in enumerate(requests):
        by_kind.setdefault((request.adapter, request.words), []).append(index)
    for (which, words), members in by_kind.items():
        encoded = encode(backbone, [requests[i].text for i in members], words, None, adapters[which].config)
        for index, made in zip(members, encoded, strict=True):
            rows[index] = made
    results: list[list[float]] = [[] for _ in requests]
    for shape in {tuple(a.prompt.shape + a.a.shape) for a in adapters}:
        same = [i for i, a in enumerate(adapters) if tuple(a.prompt.shape + a.a.shape) == shape]
        tensors = stack.Tensors.of([adapters[i] for i in same], backbone.device)
        members = [i for i, request in enumerate(requests) if request.adapter in same]
        items = [(same.index(requests[i].adapter), row) for i in members if (row := rows[i]) is not None]
        for index, scored in zip(members, score_rows(backbone, tensors, items, progress=progress), strict=True):
            results[index] = scored
    return results


def summarise(scores: Sequence[Sequence[float]], rows: Sequence[Row]) -> dict[str, float]:
    """Accuracy and macro-F1 (percent) of the best-scored word, and the loss (nats) over the verbalizer alone."""
    table = torch.tensor([list(s) for s in scores], dtype=torch.float64)
    gold = torch.tensor([row.gold for row in rows])
    finite = torch.isfinite(table).all(1)
    predicted = torch.where(finite, table.argmax(1), metrics.INVALID)
    found = metrics.classification(predicted.tolist(), gold.tolist(), table.shape[1])
    found["loss"] = float(-table.log_softmax(1)[torch.arange(len(gold)), gold].mean())
    return found
