"""Label scoring: log-probabilities of the verbalizer's words, rows of many tasks and adapters in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dept.adapters.adapter import CONTINUES, Adapter
from dept.adapters.stack import Tensors, shape_of, together
from dept.backbones.backbone import Backbone
from dept.batches.collate import Batch, collate
from dept.batches.pack import micro_batches
from dept.batches.tokenise import Row, encode
from dept.engine import forward
from dept.engine.memory import token_budget, within_memory
from dept.readout import Readout
from infra.errors import InputError
from tasks import metrics
from tasks.pictures import Picture

Progress = Callable[[int], None]
WITHOUT_GRADIENTS = 2  # budgets are for training, which keeps every layer's activations; 4 is no faster


@dataclass(frozen=True)
class Request:
    """A text whose label words are to be scored under one of several adapters.

    Attributes:
        text: with its task's template applied.
        words: what may follow it.
        adapter: index among the adapters.
        picture: that stands before the text (`tasks.pictures.picture_at` makes one of a file); None: none.

    Example:
        >>> Request("A good film. Sentiment:", ("negative", "positive"), adapter=0)
        Request(text='A good film. Sentiment:', words=('negative', 'positive'), adapter=0)
    """

    text: str
    words: tuple[str, ...]
    adapter: int
    picture: Picture | None = field(default=None, repr=False)


class Raw(NamedTuple):
    """Scores of rows before any readout, one line a row, one number a candidate.

    words: log-probabilities, nats. head: logits of their labels; None where there is no head.
    """

    words: list[list[float]]
    head: list[list[float]] | None = None

    def divided(self, at: int) -> tuple[Raw, Raw]:
        """Those of the first `at` rows, and those of the others."""
        heads = (None, None) if self.head is None else (self.head[:at], self.head[at:])
        return Raw(self.words[:at], heads[0]), Raw(self.words[at:], heads[1])


@torch.inference_mode()
def run_items(
    backbone: Backbone,
    items: Sequence[tuple[int, Row]],
    budget: int,
    run: Callable[[Batch], Tensor],
    progress: Progress | None = None,
) -> list[list[float]]:
    """The loop of every test: what `run` gives for each candidate of (adapter id, row) items, in their order.

    Args:
        budget: padded tokens per micro-batch of training; without gradients twice as many fit.
        run: log-probabilities (nats) [C] of a micro-batch's candidates.
        progress: called with the real tokens of each finished micro-batch.
    """
    scores: list[list[float]] = [[] for _ in items]

    def attempt(budget: int) -> None:
        left = [i for i, found in enumerate(scores) if not found]
        for group in micro_batches([items[i] for i in left], budget, backbone.packs):
            batch = collate(group, backbone)
            flat = iter(run(batch).tolist())
            for pack in group:
                for index, row in zip(pack.indices, pack.rows, strict=True):
                    scores[left[index]] = [next(flat) for _ in row.candidates]
            if progress is not None:
                progress(batch.tokens)

    if items:
        within_memory(backbone, attempt, WITHOUT_GRADIENTS * budget, max(row.length for _, row in items))
    return scores


@torch.inference_mode()
def raw_scores(
    backbone: Backbone,
    tensors: Tensors,
    items: Sequence[tuple[int, Row]],
    budget: int | None = None,
    progress: Progress | None = None,
) -> Raw:
    """What words and heads give every candidate of (adapter id, row) items, in their order.

    The prompts run once for the whole set, a text once for all its label words.

    Args:
        budget, progress: see `run_items`; default budget by rule.
    """
    if not items:
        return Raw([], [] if tensors.layers else None)
    forward.check_lengths(backbone, tensors, items)
    prompts = forward.prefix(backbone, tensors)

    def run(batch: Batch) -> Tensor:
        words, head = forward.scores(backbone, batch, tensors, prompts)
        return words if head is None else torch.stack([words, head], dim=1)

    found: list[list[Any]] = list(run_items(backbone, items, budget or token_budget(backbone), run, progress))
    if not tensors.layers:
        return Raw(found)
    return Raw([[word for word, _ in line] for line in found], [[head for _, head in line] for line in found])


def answers_of(readouts: Sequence[Readout | None], items: Sequence[tuple[int, Row]], raw: Raw) -> list[list[float]]:
    """Scores as the adapters' readouts make answers of them; free answers, and words without a readout, as they are."""
    if not readouts:
        return raw.words
    heads: Sequence[list[float] | None] = raw.head or [None] * len(raw.words)
    return [
        words if (readout := readouts[adapter_id]) is None or len(words) == 1 else readout.answer(words, head)
        for (adapter_id, _), words, head in zip(items, raw.words, heads, strict=True)
    ]


def score_rows(
    backbone: Backbone,
    tensors: Tensors,
    items: Sequence[tuple[int, Row]],
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Log-probabilities (nats) of every candidate of (adapter id, row) items, in their order.

    Where an adapter has a readout (it is calibrated, or has a head) they are of its labels, of sum 1; else of its words
    among all that could follow.

    Args:
        budget, progress: see `raw_scores`.
    """
    return answers_of(tensors.readouts, items, raw_scores(backbone, tensors, items, budget, progress))


def score(
    backbone: Backbone, adapters: Sequence[Adapter], requests: Sequence[Request], progress: Progress | None = None
) -> list[list[float]]:
    """Log-probability (nats) of each label word of each request; adapters may differ in shape and task.

    Texts are cut as the adapters' metadata say (`cut`, `max_length`), else as in training by default.

    Args:
        progress: called with the real tokens of each finished micro-batch.

    Returns:
        For each request one number per word, in the order of `request.words`.

    Raises:
        InputError: an adapter of another backbone, words that the tokenizer cannot tell apart, or other labels than a
            head has.

    Example:
        >>> backbone, adapter = Backbone.from_pretrained("smollm2-135m"), Adapter.load("mine")  # doctest: +SKIP
        >>> score(backbone, [adapter], [Request("A good film.", ("negative", "positive"), 0)])  # doctest: +SKIP
        [[-3.1, -0.4]]
    """
    for adapter in adapters:
        backbone.check_adapter(adapter)
    rows: list[Row | None] = [None] * len(requests)
    by_kind: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for index, request in enumerate(requests):
        by_kind.setdefault((request.adapter, request.words), []).append(index)
    for (which, words), members in by_kind.items():
        adapter, texts = adapters[which], [requests[i].text for i in members]
        if adapter.layers and len(words) != len(adapter.parts["head_bias"]):
            raise InputError(
                f"score: the head of the adapter tells {len(adapter.parts['head_bias'])} labels apart, but the request "
                f"has {len(words)} words. Remedy: the words that it was trained with"
            )
        pictures = [requests[i].picture for i in members]
        encoded = encode(backbone.tokens, texts, words, None, adapter.config, pictures, **reading_of(adapter))
        for index, made in zip(members, encoded, strict=True):
            rows[index] = made
    results: list[list[float]] = [[] for _ in requests]
    for same in together([shape_of(adapter) for adapter in adapters]).values():
        tensors = Tensors.of([adapters[i] for i in same], backbone.device)
        members = [i for i, request in enumerate(requests) if request.adapter in same]
        items = [(same.index(requests[i].adapter), row) for i in members if (row := rows[i]) is not None]
        for index, scored in zip(members, score_rows(backbone, tensors, items, progress=progress), strict=True):
            results[index] = scored
    return results


def reading_of(adapter: Adapter) -> dict[str, Any]:
    """How an adapter's texts are cut, from its metadata, as arguments of `dept.batches.tokenise`."""
    about = adapter.metadata
    return {
        "cut": about.get("cut"),
        "template": about.get("template"),
        "max_length": about.get("max_length"),
        "continues": bool(about.get(CONTINUES, False)),
        "chat": bool(about.get("chat", False)),
    }


def summarise(scores: Sequence[Sequence[float]], rows: Sequence[Row]) -> dict[str, float]:
    """How good scored rows are, percent, and their loss.

    Rows of several words: `accuracy` of the best-scored word, `macro_f1` and `ece` (expected calibration error, see
    `tasks.metrics`) where all rows have as many words, and the loss (nats) over the words alone. Rows of one answer
    each: `likelihood`, 100 * exp(-loss), and the loss in nats per token of the answer. `score` is accuracy or
    likelihood; where both kinds meet, their mean over the rows.
    """
    by_words: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_words.setdefault(len(row.candidates), []).append(index)
    found: dict[str, float] = {}
    parts = []
    for words, members in by_words.items():
        part = _answers if words == 1 else _words
        parts.append(part([scores[i] for i in members], [rows[i] for i in members]))
    if len(parts) == 1:
        found = parts[0]
    elif 1 not in by_words:
        found["accuracy"] = _mean_over_rows(parts, by_words, "score")
    return found | {name: _mean_over_rows(parts, by_words, name) for name in ("score", "loss")}


def _mean_over_rows(parts: list[dict[str, float]], groups: dict[int, list[int]], name: str) -> float:
    sizes = [len(members) for members in groups.values()]
    return sum(part[name] * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)


def _words(scores: Sequence[Sequence[float]], rows: Sequence[Row]) -> dict[str, float]:
    table = torch.tensor([list(s) for s in scores], dtype=torch.float64)
    gold = torch.tensor([row.gold for row in rows])
    chosen = predictions(scores)
    found = metrics.classification(chosen, gold.tolist(), table.shape[1])
    logs = table.log_softmax(1)
    right = [guess == row.gold for guess, row in zip(chosen, rows, strict=True)]
    found["ece"] = metrics.calibration_error(logs.max(1).values.exp().tolist(), right)
    loss = float(-logs[torch.arange(len(gold)), gold].mean())
    return found | {"score": found["accuracy"], "loss": loss}


def _answers(scores: Sequence[Sequence[float]], rows: Sequence[Row]) -> dict[str, float]:
    each = [-line[0] / len(row.candidates[0]) for line, row in zip(scores, rows, strict=True)]
    loss = sum(each) / len(each)
    likelihood = 100 * math.exp(-loss) if math.isfinite(loss) else 0.0
    return {"likelihood": likelihood, "score": likelihood, "loss": loss}


def predictions(scores: Sequence[Sequence[float]]) -> list[int]:
    """Index of the best-scored word of each row; INVALID where a score is not finite."""
    return [
        max(range(len(line)), key=line.__getitem__) if all(map(math.isfinite, line)) else metrics.INVALID
        for line in scores
    ]
