"""The loop: trials in, results out. Trials of one shape share every forward and backward pass of the backbone.

A trial that is done or has failed leaves the stack at once and the next waiting one takes its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.optimizer import rate_factor
from dept.backbones.backbone import Backbone
from dept.batches.batching import Row
from dept.config import TrainConfig
from dept.engine import checkpoint
from dept.engine import forward as stack
from dept.engine.evaluate import score_rows, summarise
from dept.engine.gradients import Sums, accumulate
from dept.engine.memory import peak_memory_mib, token_budget, within_memory
from dept.engine.parallel import Local, Parallel
from dept.trial import goodness


@dataclass(frozen=True)
class Trial:
    """One adapter to train: where it starts, on what, and how."""

    key: str
    start: Adapter
    config: TrainConfig
    rows: Sequence[Row]
    validation: Sequence[Row]
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """m, s, r: trials of one shape share a stack."""
        return (self.start.prompt.shape[0], *self.start.a.shape)

    @property
    def batch_size(self) -> int:
        """Rows per step; no row twice in one step."""
        return min(self.config.batch_size, len(self.rows))


@dataclass
class State:
    """What a trial has reached. Its tensors lie in the stack."""

    step: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    worse: int = 0
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    padded: int = 0
    failure: str | None = None

    def stepped(self, loss: float, norm: float, max_loss: float) -> None:
        """Note a step, with its loss and gradient norm; a step that diverged is a failure."""
        self.loss_curve.append((self.step, loss))
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.failure = f"loss {loss}, gradient norm {norm} at step {self.step}: not finite. Lower the rates"
        elif loss > max_loss:
            self.failure = f"loss {loss:.2f} at step {self.step} is above max_loss={max_loss}"


@dataclass
class Result:
    """A trained trial: the adapter of the step with the lowest validation loss, or the reason of its failure."""

    key: str
    adapter: Adapter
    state: State
    peak_memory_mib: float

    @property
    def failure(self) -> str | None:
        """Why the trial failed, or None."""
        return self.state.failure


def data_order(rows: int, batch: int, step: int, seed: int) -> list[int]:
    """Row indices of one step: a new seeded shuffle each epoch, a function of the step alone, so it can be resumed."""
    chosen: list[int] = []
    epoch, order = -1, []
    for position in range(step * batch, (step + 1) * batch):
        if position // rows != epoch:
            epoch = position // rows
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        chosen.append(order[position % rows])
    return chosen


def train(
    trials: Sequence[Trial],
    backbone: Backbone,
    *,
    on_result: Callable[[Result], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
    slots: int = 64,
    budget: int | None = None,
    checkpoint_folder: Path | None = None,
    checkpoint_seconds: float = 30.0,
    parallel: Parallel | None = None,
) -> dict[str, Result]:
    """Train every trial; those of one (m, s, r) in one stack, other shapes one stack after the other.

    Args:
        on_result: called once per trial as soon as it has left the stack.
        on_tokens: called with the real training and validation tokens of each micro-batch.
        slots: trials in a stack at the same time.
        budget: padded tokens per micro-batch; found by itself where none is given.
        checkpoint_folder: where a stack saves itself; a killed call with the same trials goes on from there.
        checkpoint_seconds: time between saves.
    """
    results: dict[str, Result] = {}
    for shape in dict.fromkeys(trial.shape for trial in trials):
        group = [trial for trial in trials if trial.shape == shape]
        folder = checkpoint_folder / "-".join(map(str, shape)) if checkpoint_folder else None
        loop = Loop(
            group,
            backbone,
            on_result=on_result,
            on_tokens=on_tokens,
            slots=slots,
            budget=budget,
            folder=folder,
            checkpoint_seconds=checkpoint_seconds,
            parallel=parallel,
        )
        results |= loop.run()
    return results


class Loop:
    """One stack of trials of one shape, step by step. `train` runs it to its end and says what the arguments mean."""

    def __init__(
        self,
        trials: Sequence[Trial],
        backbone: Backbone,
        *,
        on_result: Callable[[Result], None] | None = None,
        on_tokens: Callable[[int], None] | None = None,
        slots: int = 64,
        budget: int | None = None,
        folder: Path | None = None,
        checkpoint_seconds: float = 30.0,
        parallel: Parallel | None = None,
    ) -> None:
        self.backbone, self.on_result, self.on_tokens = backbone, on_result, on_tokens
        self.slots, self.parallel = slots, parallel or Local()
        self.budget = budget or token_budget(backbone)
        self.folder, self.checkpoint_seconds = folder, checkpoint_seconds
        self.trials = {trial.key: trial for trial in trials}
        self.states = {key: State() for key in self.trials}
        self.stack = stack.Training(trials[0].start, backbone.device)
        self.results: dict[str, Result] = {}
        self.saved = time.monotonic()

    def run(self) -> dict[str, Result]:
        """Train every trial to its end."""
        self._restore()
        waiting = [key for key in self.trials if key not in self.stack.keys]
        while waiting or self.stack.keys:
            free = self.slots - len(self.stack.keys)
            joining, waiting = waiting[:free], waiting[free:]
            self.stack.join({key: self.trials[key].start for key in joining})
            self._validate()
            # A place that became free is taken before the next step, so a resumed run meets the same stack.
            if self.stack.keys and not (waiting and len(self.stack.keys) < self.slots):
                self.step()
                self._save()
        checkpoint.clear(self.folder)
        return self.results

    def _validate(self) -> None:
        due = [key for key in self.stack.keys if self._is_due(key)]
        items = [
            (slot, row) for slot, key in enumerate(self.stack.keys) if key in due for row in self.trials[key].validation
        ]
        started = time.monotonic()
        scores = score_rows(self.backbone, self.stack.tensors, items, self.budget, self.on_tokens)
        scores = self.parallel.agree(scores) if due else scores
        seconds = (time.monotonic() - started) / max(1, len(due))
        for key in due:
            trial, state = self.trials[key], self.states[key]
            mine, scores = scores[: len(trial.validation)], scores[len(trial.validation) :]
            state.seconds += seconds
            if trial.validation:
                found = summarise(mine, trial.validation)
                state.validation_curve.append((state.step, found["score"]))
                better = goodness(found) > goodness(state.best) if state.best else True
            else:
                found, better = {}, True  # nothing to choose by: the last step is kept
            if better:
                state.best, state.best_step, state.worse = found, state.step, 0
                self.stack.keep(key)
            else:
                state.worse += 1
        for key in list(self.stack.keys):
            trial, state = self.trials[key], self.states[key]
            if state.failure or state.step >= trial.config.steps or state.worse > trial.config.patience:
                self._leave(key)

    def _is_due(self, key: str) -> bool:
        trial, state = self.trials[key], self.states[key]
        seen = bool(state.validation_curve) and state.validation_curve[-1][0] == state.step
        reached = state.step % trial.config.eval_every == 0 or state.step >= trial.config.steps
        return reached and not seen and state.failure is None

    def _leave(self, key: str) -> None:
        trial = self.trials[key]
        adapter = self.stack.best(key, trial.start)
        self.stack.leave(key)
        result = Result(key, adapter, self.states[key], peak_memory_mib())
        self.results[key] = result
        if self.on_result is not None:
            self.on_result(result)

    def step(self) -> None:
        """One optimizer step of every trial in the stack."""
        started = time.monotonic()
        keys = list(self.stack.keys)
        items, counted = [], []
        for slot, key in enumerate(keys):
            trial = self.trials[key]
            chosen = data_order(len(trial.rows), trial.batch_size, self.states[key].step, trial.seed)
            rows = [trial.rows[i].only_gold() for i in chosen]
            items += [(slot, row) for row in rows]
            counted.append(sum(len(row.branches[0]) for row in rows))
        label_tokens = torch.tensor(counted, device=self.backbone.device)
        sums = self._backward(items, label_tokens)
        losses, tokens, padded = (found.tolist() for found in sums)
        self._update(keys, losses)
        seconds = time.monotonic() - started
        for slot, key in enumerate(keys):
            state = self.states[key]
            state.seconds += seconds * tokens[slot] / sum(tokens)
            state.tokens += round(tokens[slot])
            state.padded += round(padded[slot])

    def _backward(self, items: list[tuple[int, Row]], label_tokens: Tensor) -> Sums:
        """Gradients within the memory there is: where it runs out, with half the token budget from then on."""

        def attempt(budget: int) -> Sums:
            self.stack.clear_gradients()
            return accumulate(
                self.backbone, self.stack.tensors, items, label_tokens, budget, self.parallel, self.on_tokens
            )

        sums, self.budget = within_memory(self.backbone, attempt, self.budget, max(row.length for _, row in items))
        self.parallel.sum([sums.losses, sums.tokens, sums.padded, *self.stack.gradients().values()])
        return sums

    def _update(self, keys: list[str], losses: list[float]) -> None:
        configs = [self.trials[key].config for key in keys]
        factors = [rate_factor(self.states[key].step, c.steps, c.warmup) for key, c in zip(keys, configs, strict=True)]
        norms = self.stack.update(
            [c.lr_prompt * f for c, f in zip(configs, factors, strict=True)],
            [c.lr_low_rank * f for c, f in zip(configs, factors, strict=True)],
            [c.weight_decay for c in configs],
            [math.inf if c.clip is None else c.clip for c in configs],
        ).tolist()
        for key, config, loss, norm in zip(keys, configs, losses, norms, strict=True):
            self.states[key].stepped(loss, norm, config.max_loss)

    def _save(self) -> None:
        if self.folder is not None and time.monotonic() - self.saved >= self.checkpoint_seconds:
            checkpoint.save(self.folder, self.stack, {key: self.states[key] for key in self.stack.keys})
            self.saved = time.monotonic()

    def _restore(self) -> None:
        if self.folder is not None:
            for key, state in checkpoint.restore(self.folder, self.stack, set(self.trials)).items():
                self.states[key] = State(**state)
