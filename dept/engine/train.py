"""The loop: trials in, results out. Trials of one shape share every forward and backward pass of the backbone.

A trial that is done or has failed leaves the stack at once and the next waiting one takes its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.optimizer import rate_factor
from dept.adapters.stack import Tensors, Training, together
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.config import RATES, EngineOptions
from dept.engine.checkpoint import Checkpoint
from dept.engine.disturb import Disturbance, Noise, dropped
from dept.engine.evaluate import Raw, answers_of, raw_scores
from dept.engine.gradients import Sums, accumulate, weights_of
from dept.engine.memory import peak_memory_mib, token_budget, within_memory
from dept.engine.parallel import Local, Parallel, agreed
from dept.engine.readout import WEIGHTS, Known, given, kept, settle
from dept.engine.state import Point, Result, State, Trial, data_order

__all__ = ["Loop", "Result", "State", "Trial", "data_order", "train"]


def train(
    trials: Sequence[Trial],
    backbone: Backbone,
    options: EngineOptions | None = None,
    *,
    on_result: Callable[[Result], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
    on_restored: Callable[[str, State], None] | None = None,
    on_point: Callable[[Point], None] | None = None,
    parallel: Parallel | None = None,
) -> dict[str, Result]:
    """Train every trial; those of one (m, s, r) in one stack, other shapes one stack after the other.

    Args:
        options: adapters at once, token budget, checkpoints; a killed call goes on from its checkpoint, each trial
            by its own key.
        on_result: called once per trial as soon as it has left the stack.
        on_tokens: called with the real training and validation tokens of each micro-batch.
        on_restored: called once for each trial that goes on from a checkpoint, with its key and what it had reached.
        on_point: called with each training loss and each validation, as they come.
        parallel: how ranks share a step; default one process alone.

    Returns:
        key -> result. A trial that diverged has `result.failure`; it never stops the others.

    Raises:
        InputError: see `Trial.check`.
        OSError: a checkpoint cannot be written.

    Example:
        >>> from dept import AdapterConfig, Backbone, Trial, TrainConfig, train
        >>> from dept.adapters.initialise import from_text
        >>> from dept.batches.tokenise import encode
        >>> backbone, config = Backbone.from_pretrained("smollm2-135m"), AdapterConfig(m=10, r=4, s=64)
        >>> rows = encode(backbone.tokens, ["A good film.", "Awful."], ("negative", "positive"), [1, 0], config)
        >>> start = from_text(backbone, config, "Is this text negative or positive?", seed=0)
        >>> result = train([Trial("mine", start, TrainConfig(steps=5), rows, rows)], backbone)["mine"]
        >>> result.adapter.save("mine")  # doctest: +SKIP
    """
    for trial in trials:
        trial.check(backbone)
    options = options or EngineOptions()
    results: dict[str, Result] = {}
    for members in together([trial.shape for trial in trials]).values():
        group = [trials[index] for index in members]
        loop = Loop(
            group,
            backbone,
            options,
            on_result=on_result,
            on_tokens=on_tokens,
            on_restored=on_restored,
            on_point=on_point,
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
        options: EngineOptions | None = None,
        *,
        on_result: Callable[[Result], None] | None = None,
        on_tokens: Callable[[int], None] | None = None,
        on_restored: Callable[[str, State], None] | None = None,
        on_point: Callable[[Point], None] | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        self.on_point = on_point
        self.backbone, self.options = backbone, options or EngineOptions()
        self.on_result, self.on_tokens, self.on_restored = on_result, on_tokens, on_restored
        self.parallel = parallel or Local()
        self.budget = self.options.token_budget or token_budget(backbone)
        self.trials = {trial.key: trial for trial in trials}
        self.states = {key: State() for key in self.trials}
        self.stack = Training({trial.key: trial.start for trial in trials}, backbone.device)
        self.results: dict[str, Result] = {}
        self.raw: dict[str, Raw] = {}  # of the validation that each trial's kept step had
        self.latest: dict[str, Raw] = {}  # of the last validation of each in the stack
        known: dict[int, str] = {}
        folder = self.options.checkpoint_folder
        about = f"{backbone.weights_id} {backbone.dtype}" if folder else ""
        identities = {trial.key: trial.identity(about, known) for trial in trials} if folder else {}
        self.checkpoint = Checkpoint(folder, identities)
        self.saved = time.monotonic()
        self.waiting = list(self.trials)

    def run(self) -> dict[str, Result]:
        """Train every trial to its end."""
        self._restore()
        while self.live:
            self.seat()
            self.validate()
            for key in self.done():
                self.leave(key)
            if self.ready:
                self.step()
                self._save()
        if self.parallel.saves:
            self.checkpoint.clear()
        return self.results

    @property
    def live(self) -> bool:
        """Whether any trial is in the stack or waits for a place."""
        return bool(self.waiting or self.stack.keys)

    @property
    def ready(self) -> bool:
        """Whether a step is to be made: a place that is free is taken first, so a resumed run meets the same stack."""
        full = len(self.stack.keys) >= self.options.adapters_at_once
        return bool(self.stack.keys) and (full or not self.waiting)

    def seat(self) -> None:
        """Give free places of the stack to those that wait."""
        free = max(0, self.options.adapters_at_once - len(self.stack.keys))
        joining, self.waiting = self.waiting[:free], self.waiting[free:]
        self.stack.join(joining)

    def done(self) -> list[str]:
        """Trials of the stack that have made all their steps, lost their patience or failed."""
        return [key for key in self.stack.keys if self.states[key].is_done(self.trials[key].config)]

    def validate(self) -> list[str]:
        """Validate the trials of the stack whose step is to be; returns their keys."""
        due = [key for key in self.stack.keys if self.states[key].is_due(self.trials[key].config)]
        items = [(self.stack.keys.index(key), row) for key in due for row in self.trials[key].validation]
        started = time.monotonic()
        tensors = self.stack.averaged
        raw = self._raw(tensors, items)
        scores = answers_of(tensors.readouts, items, raw)
        seconds = (time.monotonic() - started) / max(1, len(due))
        for key in due:
            trial, state = self.trials[key], self.states[key]
            mine, scores = scores[: len(trial.validation)], scores[len(trial.validation) :]
            own, raw = raw.divided(len(trial.validation))
            self.latest[key] = own
            state.seconds += seconds
            if state.validated(mine, trial.validation):
                self.stack.keep(key)
                self.raw[key] = own
            if mine:
                self._tell(key, "validation_loss", state.validation_loss_curve[-1])
                self._tell(key, "validation_score", state.validation_curve[-1])
        return due

    def _tell(self, key: str, curve: str, point: tuple[int, float]) -> None:
        if self.on_point is not None:
            self.on_point(Point(key, curve, *point, time.time()))

    def leave(self, key: str) -> None:
        """Take a trial out of the stack; its result is the adapter that was kept."""
        adapter = self.stack.best(key)
        self.stack.leave(key)
        self.latest.pop(key, None)
        self._settle_readout(key, adapter)
        result = self.results[key] = Result(key, adapter, self.states[key], peak_memory_mib())
        if self.on_result is not None:
            self.on_result(result)

    def _raw(self, tensors: Tensors, items: list[tuple[int, Row]]) -> Raw:
        return agreed(self.parallel, raw_scores(self.backbone, tensors, items, self.budget, self.on_tokens))

    def _settle_readout(self, key: str, adapter: Adapter) -> None:
        """Choose how the adapter's scores become answers; what its validation gave is not computed again."""
        trial, state, raw = self.trials[key], self.states[key], self.raw.pop(key, None)
        if trial.readout is not None and trial.calibration != "contextual":
            adapter.readout, state.readout = given(trial.readout, bool(adapter.layers))
            return
        if not adapter.layers:
            adapter.readout = None  # a start's was chosen for other tensors, and no validation has used it
        if state.failure is not None or (trial.calibration == "none" and not adapter.layers):
            return
        began = time.monotonic()
        tensors = Tensors.of([adapter], self.backbone.device)

        def score(rows: Sequence[Row]) -> Raw:
            return self._raw(tensors, [(0, row) for row in rows])

        alone = adapter.readout is not None and adapter.readout.weight == 1  # the head's
        chosen = trial.readout or (adapter.readout if alone else None)
        weights: Sequence[float] = WEIGHTS if chosen is None else (chosen.weight,)
        found = settle(Known(trial.validation, trial.rows, trial.neutral), trial.calibration, score, raw, weights)
        if found is not None:
            adapter.readout = kept(found.readout, bool(adapter.layers))
            state.readout, state.best = found.told, found.best or state.best
        state.seconds += time.monotonic() - began

    def step(self) -> None:
        """One optimizer step of every trial in the stack."""
        started = time.monotonic()
        keys = list(self.stack.keys)
        items, weights, noise = [], [], []
        for adapter_id, key in enumerate(keys):
            trial, step = self.trials[key], self.states[key].step
            chosen = data_order(len(trial.rows), trial.batch_size, step, trial.seed)
            rows = [trial.learned(trial.rows[i]) for i in chosen]
            items += [(adapter_id, row) for row in rows]
            weights += weights_of(rows)
            alpha = trial.config.noise
            noise += [Noise(alpha, trial.seed, step, place) if alpha else None for place in range(len(rows))]
        smoothing = [self.trials[key].config.label_smoothing for key in keys]
        sums = self._backward(items, weights, Disturbance(smoothing, noise))
        losses, tokens, padded = (found.tolist() for found in sums)
        self._update(keys, losses)
        seconds = time.monotonic() - started
        for adapter_id, key in enumerate(keys):
            state = self.states[key]
            state.seconds += seconds * tokens[adapter_id] / sum(tokens)
            state.tokens += round(tokens[adapter_id])
            state.padded += round(padded[adapter_id])

    def _backward(self, items: list[tuple[int, Row]], weights: list[float], disturbance: Disturbance) -> Sums:
        """Gradients within the memory there is: where it runs out, with half the token budget from then on."""
        masks = self._masks()

        def attempt(budget: int) -> Sums:
            self.stack.clear_gradients()
            tensors, whole = self.stack.tensors, self.stack.parameters["prompt"]
            if masks is not None:
                tensors.prompt = (whole.detach() * masks).requires_grad_()
            sums = accumulate(
                self.backbone, tensors, items, weights, budget, self.parallel, self.on_tokens, disturbance
            )
            if masks is not None and tensors.prompt.grad is not None:
                whole.grad = tensors.prompt.grad * masks
            return sums

        sums, self.budget = within_memory(self.backbone, attempt, self.budget, max(row.length for _, row in items))
        self.parallel.sum([sums.losses, sums.tokens, sums.padded, *self.stack.gradients().values()])
        return sums

    def _masks(self) -> Tensor | None:
        """Dropout's factors on the prompts [N, m, d] of this step; None where no trial has any."""
        trials = [self.trials[key] for key in self.stack.keys]
        if not any(trial.config.dropout for trial in trials):
            return None
        steps = [self.states[trial.key].step for trial in trials]
        masks = [
            dropped(trial.start.prompt.shape, trial.config.dropout, trial.seed, step)
            for trial, step in zip(trials, steps, strict=True)
        ]
        return torch.stack(masks).to(self.backbone.device)

    def _update(self, keys: list[str], losses: list[float]) -> None:
        configs = [self.trials[key].config for key in keys]
        reached = [self.states[key].step for key in keys]
        factors = [rate_factor(at, c.steps, c.warmup, c.schedule) for at, c in zip(reached, configs, strict=True)]
        norms = self.stack.update(
            {kind: [getattr(c, kind) * f for c, f in zip(configs, factors, strict=True)] for kind in RATES},
            [c.weight_decay for c in configs],
            [math.inf if c.clip is None else c.clip for c in configs],
            [c.average for c in configs],
        ).tolist()
        for key, config, loss, norm in zip(keys, configs, losses, norms, strict=True):
            self.states[key].stepped(loss, norm, config.max_loss)
            self._tell(key, "loss", self.states[key].loss_curve[-1])

    def _save(self) -> None:
        if self.parallel.saves and time.monotonic() - self.saved >= self.options.checkpoint_seconds:
            self.checkpoint.save(self.stack, self.states)
            self.saved = time.monotonic()

    def _restore(self) -> None:
        for key, state in self.checkpoint.restore(self.stack, self.parallel.saves).items():
            self.states[key] = state
            if self.on_restored is not None:
                self.on_restored(key, state)
        self.waiting = [key for key in self.trials if key not in self.stack.keys]
