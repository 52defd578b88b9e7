"""Search among recipes of a baseline: candidates times folds one after the other, by the rule of `dept.engine.search`.

A baseline changes the backbone itself, so none can wait beside another: those that are left are trained to the next
rung from the start. Their steps are the same again, since rates hang on the step alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from dept.backbones.backbone import Backbone
from dept.baselines.train import Tokens, train_baseline
from dept.engine.evaluate import Raw
from dept.engine.halving import Found, Halving, joined
from dept.engine.search import END, OVER
from dept.engine.state import State, Trial

Seen = dict[int, list[list[float]]]  # scores of a fold's rows, by the step of the validation


def search_baseline(
    method: str,
    backbone: Backbone,
    candidates: Sequence[Sequence[Trial]],
    *,
    rungs: Sequence[int],
    eta: int,
    seconds: float | None = None,
    budget: int = 0,
    on_tokens: Tokens = None,
) -> Found:
    """Train candidates to each rung in turn, of which the best 1/eta go on.

    Args:
        candidates: of each candidate one trial per fold; their starts and patience play no part.
        method, backbone, budget, on_tokens: see `dept.baselines.train.train_baseline`.
        rungs, eta, seconds: see `dept.engine.search.search`.

    Raises:
        InputError: see `train_baseline`.
    """
    halving = Halving(len(candidates), rungs, eta)
    found = Found(halving.tried)
    whole = max(trial.config.end for trials in candidates for trial in trials)
    for rung in sorted({*(rung for rung in rungs if rung < whole), whole}):
        for number, trials in enumerate(candidates):
            if halving.tried[number].left:
                continue
            if seconds is not None and found.seconds > seconds:
                halving.end(number, OVER)
                found.over = True
                continue
            folds = [_trained(method, backbone, trial, rung, budget, on_tokens) for trial in trials]
            states = [state for state, _ in folds]
            found.steps += sum(state.step for state in states)
            found.tokens += sum(state.tokens for state in states)
            found.seconds += sum(state.seconds for state in states)
            _note(halving, found, number, trials, folds)
            if rung >= trials[0].config.end:
                halving.end(number, END)
        halving.leaving()
    return found


def _trained(
    method: str, backbone: Backbone, trial: Trial, rung: int, budget: int, on_tokens: Tokens
) -> tuple[State, Seen]:
    last = min(rung, trial.config.end)
    config = trial.config.model_copy(update={"last": last, "patience": None})
    seen: Seen = {}
    with train_baseline(
        method,
        backbone,
        trial.rows,
        trial.validation,
        config,
        trial.seed,
        budget=budget,
        on_tokens=on_tokens,
        on_validated=seen.__setitem__,
    ) as baseline:
        return baseline.state, seen


def _note(
    halving: Halving, found: Found, number: int, trials: Sequence[Trial], folds: Sequence[tuple[State, Seen]]
) -> None:
    """The validations that are new, and the scores of the best so far; a fold that diverged ends its candidate."""
    failures = [state.failure for state, _ in folds if state.failure]
    if failures:
        halving.fail(number, failures[0])
        return
    known = {step for step, _ in halving.tried[number].losses}
    curves = [(state.validation_loss_curve, state.validation_curve) for state, _ in folds]
    for step, reached in joined(curves, [len(trial.validation) for trial in trials]):
        if step not in known:
            halving.note(number, step, reached)
            if halving.tried[number].best[0] == step:
                found.raws[number] = Raw([line for _, seen in folds for line in seen[step]])
