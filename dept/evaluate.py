"""Label scoring: log-probabilities of the verbalizer's words, rows of many tasks and adapters in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dept import stack
from dept.adapter import Adapter
from dept.backbone import Backbone
from dept.batching import Row, collate, encode, micro_batches
from tasks import metrics

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Request:
    """A text whose label words are to be scored under one of several adapters."""

    text: str
    words: tuple[str, ...]
    adapter: int


def token_budget(backbone: Backbone) -> int:
    """Padded tokens per micro-batch that a device holds comfortably."""
    return 16384 if backbone.device.type == "cuda" else 512


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
        progress: called with the real tokens of each finished micro-batch.
    """
    scores: list[list[float]] = [[] for _ in items]
    if not items:
        return scores
    prompts = stack.prefix(backbone, tensors)
    for group in micro_batches(items, budget or token_budget(backbone)):
        batch = collate([item for _, item in group], backbone)
        flat = stack.log_probs(backbone, batch, tensors, prompts).tolist()
        for index, (_, row) in group:
            scores[index], flat = flat[: len(row.branches)], flat[len(row.branches) :]
        if progress is not None:
            progress(batch.tokens)
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
