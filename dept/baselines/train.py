"""Baselines, one trial after the other: LoRA and full fine-tuning of a plain copy of the backbone.

Rows, data order, batch size, objective, label smoothing, noise, rate schedule, clipping, averaging, validations,
patience and the step that is kept are those of `dept.engine.train`, so that methods are compared by one recipe. The
peak learning rate of both is `config.lr_prompt`; there is no prompt to drop numbers of.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn

from dept.adapters.optimizer import rate_factor
from dept.backbones.backbone import Backbone
from dept.baselines import lora
from dept.baselines.files import write_baseline
from dept.baselines.mean import Mean
from dept.baselines.need_peft import need_peft
from dept.baselines.plain import PlainCopy, items_of, log_probs, plain_copy
from dept.batches.collate import collate
from dept.batches.pack import micro_batches
from dept.batches.tokenise import Row
from dept.config import TrainConfig
from dept.engine.disturb import Disturbance, Noise
from dept.engine.evaluate import run_items
from dept.engine.gradients import in_vocabulary, of_words, weights_of
from dept.engine.memory import token_budget, within_memory
from dept.engine.state import Point, State, learned
from dept.engine.train import data_order
from infra.errors import InputError

Method = Literal["lora", "lora-r8", "full"]
Tokens = Callable[[int], None] | None  # called with the real tokens of each micro-batch
Validated = Callable[[int, list[list[float]]], None] | None  # called with the step and the scores of its rows


class Baseline:
    """A trained baseline. It lives until `close`, or until the next baseline of its backbone is trained.

    Attributes:
        state: what training reached; `state.failure` says why it failed, or None.
        rank: of LoRA; None for full fine-tuning.
        trainable: numbers trained.
    """

    def __init__(self, method: Method, backbone: Backbone, rank: int | None, budget: int, seed: int) -> None:
        self.method, self.backbone, self.seed = method, backbone, seed
        self.state = State()
        self._copy = plain_copy(backbone)
        self._copy.end(backbone)
        if method == "full":
            self.rank = None
        else:
            self.rank = lora.rank_of(method, self._copy.bare.model, budget) if rank is None else rank
        self._parameters = self._copy.begin(self.rank, seed)
        self._turn = self._copy.turn
        self.trainable = sum(parameter.numel() for parameter in self._parameters)
        self._budget = token_budget(backbone)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @torch.inference_mode()
    def score(self, rows: Sequence[Row], progress: Callable[[int], None] | None = None) -> list[list[float]]:
        """Log-probability (nats) of every candidate of each row, in their order.

        Args:
            progress: called with the real tokens of each finished micro-batch.

        Raises:
            RuntimeError: the baseline is closed.
        """
        bare = self._live().bare
        return run_items(bare, items_of(rows), self._budget, lambda batch: log_probs(bare, batch), progress)

    def save(self, folder: str | Path, *, keep_weights: bool = False, **metadata: Any) -> str:
        """Write the baseline durably; the folder appears whole or not at all.

        LoRA: peft's own files and a manifest, `baseline.json`. Full fine-tuning: the manifest alone, which says that
        the weights are not kept; with `keep_weights` the whole model, which `from_pretrained` reads.

        Args:
            metadata: goes into the manifest.

        Returns:
            sha256 (hex) of the manifest, which holds the sha256 of each file.

        Raises:
            InputError: the disk is full or the folder cannot be written.
            RuntimeError: the baseline is closed.
        """
        copy = self._live()
        kept = keep_weights or self.rank is not None

        def write(into: Path) -> None:
            if copy.wrapped is not None:
                lora.save(copy.wrapped, into, self.backbone.name)
            elif keep_weights:
                copy.bare.model.save_pretrained(into)

        return write_baseline(folder, write, self._manifest(kept) | {"metadata": metadata})

    def close(self) -> None:
        """Drop what was trained; the copy stays for the next baseline (`dept.baselines.plain.release` drops it too)."""
        self._parameters = []
        if self._copy.turn == self._turn:
            self._copy.end(self.backbone)

    def _live(self) -> PlainCopy:
        if self._copy.turn != self._turn:
            raise RuntimeError("this baseline is closed: score and save it before the next one is trained")
        return self._copy

    def _manifest(self, kept: bool) -> dict[str, Any]:
        return {
            "method": self.method,
            "rank": self.rank,
            "seed": self.seed,
            "backbone": self.backbone.name,
            "backbone_id": self.backbone.weights_id,
            "trainable": self.trainable,
            "best_step": self.state.best_step,
            "validation": self.state.best,
            "failure": self.state.failure,
            "weights": "kept" if kept else "not kept: as large as the backbone; train again with keep_weights=True",
        }


def train_baseline(
    method: str,
    backbone: Backbone,
    rows: Sequence[Row],
    validation: Sequence[Row],
    config: TrainConfig,
    seed: int,
    *,
    rank: int | None = None,
    budget: int = 0,
    on_tokens: Tokens = None,
    on_validated: Validated = None,
    on_point: Callable[[Point], None] | None = None,
) -> Baseline:
    """Train one baseline from the backbone's weights; the backbone itself stays as it is. Dropout is off, as in dept.

    Args:
        method: "lora" (all linear layers, at the rank that trains `budget` numbers, see `dept.baselines.lora`),
            "lora-r8" (at rank 8) or "full" (every weight).
        rows, validation: as of a `dept.engine.train.Trial`; without validation rows the last step is kept.
        config: `lr_prompt` is the peak learning rate; `lr_low_rank` is not used.
        seed: of the data order and of LoRA's A.
        rank: of LoRA; None: that of the method.
        budget: trainable numbers of the adapter that it is compared with.
        on_tokens: called with the real training and validation tokens of each micro-batch.
        on_validated: called at each validation with its step and the log-probabilities (nats) of every candidate of
            each validation row, before any readout.
        on_point: called with each training loss and each validation, as they come; without a key.

    Returns:
        The baseline with the weights of its best step. Training the next one closes it.

    Raises:
        InputError: an unknown method, a sharded backbone, no rows, peft missing or a backbone without linear layers.
    """
    if method not in get_args(Method):
        raise InputError(f"baseline: unknown method {method!r}; known: {', '.join(get_args(Method))}")
    if backbone.sharded:
        raise InputError(f"method {method} needs the whole backbone in one process. Remedy: run it without DeepSpeed")
    if not rows:
        raise InputError(f"method {method}: there are no rows to train on")
    if method != "full":
        need_peft()
    baseline = Baseline(cast(Method, method), backbone, rank, budget, seed)
    try:
        _fit(baseline, rows, validation, config, on_tokens, on_validated, on_point)
    except BaseException:
        baseline.close()
        raise
    return baseline


class _Sums(NamedTuple):
    loss: float
    tokens: int
    padded: int


def _fit(
    baseline: Baseline,
    rows: Sequence[Row],
    validation: Sequence[Row],
    config: TrainConfig,
    on_tokens: Tokens,
    on_validated: Validated,
    on_point: Callable[[Point], None] | None,
) -> None:
    """The loop of `dept.engine.train.Loop` for one trial, with torch.optim.AdamW."""
    state, parameters = baseline.state, baseline._parameters
    optimizer = torch.optim.AdamW(parameters, lr=config.lr_prompt, weight_decay=config.weight_decay, fused=True)
    kept: list[Tensor] = []
    mean = Mean(parameters, config.average)
    batch = min(config.batch_size, len(rows))

    def tell(curve: str, points: Sequence[tuple[int, float]]) -> None:
        if on_point is not None and points:
            on_point(Point("", curve, *points[-1], time.time()))

    while True:
        began = time.monotonic()
        if state.is_due(config):
            with mean.in_place():
                scores = baseline.score(validation, on_tokens)
                if on_validated is not None:
                    on_validated(state.step, scores)
                if state.validated(scores, validation):
                    kept = [parameter.detach().clone() for parameter in parameters]
            tell("validation_loss", state.validation_loss_curve)
            tell("validation_score", state.validation_curve)
        done = state.is_done(config)
        if not done:
            step = state.step
            chosen = [learned(rows[i], config) for i in data_order(len(rows), batch, step, baseline.seed)]
            noise = [Noise(config.noise, baseline.seed, step, i) if config.noise else None for i in range(len(chosen))]
            sums = _backward(baseline, chosen, Disturbance([config.label_smoothing], noise), on_tokens)
            _update(state, optimizer, config, sums.loss)
            tell("loss", state.loss_curve)
            mean.stepped()
            state.tokens += sums.tokens
            state.padded += sums.padded
        state.seconds += time.monotonic() - began
        if done:
            break
    with torch.no_grad():
        for parameter, best in zip(parameters, kept, strict=True):
            parameter.copy_(best)
            parameter.grad = None


def _backward(baseline: Baseline, rows: Sequence[Row], disturbance: Disturbance, on_tokens: Tokens) -> _Sums:
    """Gradients of the mean loss (nats, see `weights_of`) of one step's rows, within the memory there is."""
    bare, weights = baseline._copy.bare, weights_of(rows)
    smoothing = torch.tensor(disturbance.smoothing, device=bare.device) if any(disturbance.smoothing) else None

    def attempt(budget: int) -> _Sums:
        for parameter in baseline._parameters:
            parameter.grad = None
        loss, tokens, padded = torch.zeros((), device=bare.device), 0, 0
        for group in micro_batches(items_of(rows), budget, bare.packs):
            batch = collate(group, bare)
            noise, even = disturbance.on(group, batch, bare.d), None if smoothing is None else smoothing[batch.owner]
            words = log_probs(bare, batch, noise, in_vocabulary(batch, even))
            share = torch.tensor([weights[index] for pack in group for index in pack.indices], device=bare.device)
            part = (share * of_words(batch, words, even)).sum()
            part.backward()
            loss += part.detach()
            tokens += batch.tokens
            padded += batch.ids.numel()
            if on_tokens is not None:
                on_tokens(batch.tokens)
        return _Sums(float(loss), tokens, padded)

    sums, baseline._budget = within_memory(bare, attempt, baseline._budget, max(row.length for row in rows))
    return sums


def _update(state: State, optimizer: torch.optim.Optimizer, config: TrainConfig, loss: float) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, math.inf if config.clip is None else config.clip))
    for group in optimizer.param_groups:
        group["lr"] = config.lr_prompt * rate_factor(state.step, config.steps, config.warmup, config.schedule)
    optimizer.step()
    state.stepped(loss, norm, config.max_loss)
