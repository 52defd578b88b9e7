"""Search in the stack: candidates times folds train together, and those that fall behind leave early.

Candidates of one shape share a stack; the stacks of a search make their steps in turn, so that candidates of all shapes
come to a rung at once. Which candidates leave, and which one won, is `halving`'s.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes

from dept.adapters.stack import together
from dept.backbones.backbone import Backbone
from dept.config import EngineOptions
from dept.engine.checkpoint import digest, packed, unpack
from dept.engine.evaluate import Raw
from dept.engine.halving import Found, Halving, joined
from dept.engine.parallel import Local, Parallel
from dept.engine.state import State, Trial
from dept.engine.train import Loop
from infra.files import write_bytes

END, OVER = "all steps", "no time left"


def search(
    key: str,
    candidates: Sequence[Sequence[Trial]],
    backbone: Backbone,
    options: EngineOptions | None = None,
    *,
    rungs: Sequence[int],
    eta: int,
    seconds: float | None = None,
    on_tokens: Callable[[int], None] | None = None,
    parallel: Parallel | None = None,
) -> Found:
    """Train candidates until each has fallen behind at a rung or made all its steps.

    Args:
        key: of the search; its checkpoint is found by it, and goes on to the same decisions.
        candidates: of each candidate one trial per fold, with keys of their own, one shape, steps and `eval_every`.
            Their patience plays no part.
        rungs, eta: see `dept.engine.halving.Halving`.
        seconds: of training and validating, over all sittings; after that no candidate goes on.
        options, on_tokens, parallel: as `dept.engine.train.train`.

    Raises:
        InputError: an adapter that does not fit its backbone.
        OSError: a checkpoint cannot be written.
    """
    driver = _Search(key, candidates, backbone, options or EngineOptions(), Halving(len(candidates), rungs, eta))
    return driver.run(seconds, on_tokens, parallel or Local())


class _Search:
    """One search under way."""

    def __init__(
        self,
        key: str,
        candidates: Sequence[Sequence[Trial]],
        backbone: Backbone,
        options: EngineOptions,
        halving: Halving,
    ) -> None:
        folds = [[_patient(trial) for trial in trials] for trials in candidates]
        self.key, self.folds, self.backbone, self.halving = key, folds, backbone, halving
        # All folds of a candidate take their places at once.
        whole = len(folds[0])
        self.places = max(1, options.adapters_at_once // whole) * whole
        self.options = options.model_copy(update={"checkpoint_folder": None, "adapters_at_once": self.places})
        self.folder, self.checkpoint_seconds = options.checkpoint_folder, options.checkpoint_seconds
        self.of = {trial.key: number for number, trials in enumerate(folds) for trial in trials}
        self.loops: list[Loop] = []
        self.raws: dict[int, Raw] = {}  # of each candidate at its best step so far

    def run(self, seconds: float | None, on_tokens: Callable[[int], None] | None, parallel: Parallel) -> Found:
        """See `search`."""
        shared = together([trials[0].shape for trials in self.folds]).values()
        stacks = [[trial for number in members for trial in self.folds[number]] for members in shared]
        self.loops = [
            Loop(trials, self.backbone, self.options, on_tokens=on_tokens, parallel=parallel) for trials in stacks
        ]
        self._restore()
        saved, over = time.monotonic(), False
        while any(loop.live for loop in self.loops):
            self._advance()
            if seconds is not None and parallel.agree([[self._seconds()]])[0][0] > seconds:
                over = self._stop(OVER) or over
            for loop in self.loops:
                if loop.ready:
                    loop.step()
            if self.folder and parallel.saves and time.monotonic() - saved >= self.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        if self.folder and parallel.saves:
            self._file(self.folder).unlink(missing_ok=True)
        states = self._states()
        steps, tokens = (sum(getattr(state, name) for state in states.values()) for name in ("step", "tokens"))
        return Found(self.halving.tried, steps, tokens, self._seconds(), over, dict(self.raws))

    def _advance(self) -> None:
        """Seat and validate in every stack, then let those go that are done or have fallen behind."""
        validated: set[int] = set()
        for loop in self.loops:
            loop.seat()
            validated |= {self.of[key] for key in loop.validate()}
        for number in sorted(validated):
            self._note(number)
        for loop in self.loops:
            for number in dict.fromkeys(self.of[key] for key in loop.done()):
                failures = [failure for trial in self.folds[number] if (failure := loop.states[trial.key].failure)]
                if failures:
                    self.halving.fail(number, failures[0])
                self.halving.end(number, END)
                self._leave(number)
        for number in self.halving.leaving():
            self._leave(number)

    def _note(self, number: int) -> None:
        trials, states = self.folds[number], self._states()
        found = [states[trial.key] for trial in trials]
        if any(state.failure for state in found):
            return
        *_, (step, reached) = self._curve(number)
        self.halving.note(number, step, reached)
        if self.halving.tried[number].best[0] == step:
            latest = {key: raw for loop in self.loops for key, raw in loop.latest.items()}
            self.raws[number] = _behind([latest[trial.key] for trial in trials])

    def _leave(self, number: int) -> None:
        keys = {trial.key for trial in self.folds[number]}
        for loop in self.loops:
            loop.waiting = [key for key in loop.waiting if key not in keys]
            for key in [key for key in loop.stack.keys if key in keys]:
                loop.stack.leave(key)  # nobody asks for its adapter: what counts is in its curves
                loop.raw.pop(key, None)
                loop.latest.pop(key, None)

    def _stop(self, reason: str) -> bool:
        """Let all go; whether anyone was left."""
        left = [number for number, tried in enumerate(self.halving.tried) if not tried.left]
        for number in left:
            self.halving.end(number, reason)
            self._leave(number)
        return bool(left)

    def _states(self) -> dict[str, State]:
        return {key: state for loop in self.loops for key, state in loop.states.items()}

    def _seconds(self) -> float:
        return sum(state.seconds for state in self._states().values())

    def _file(self, folder: Path) -> Path:
        return folder / f"search-{hashlib.sha256(self.key.encode()).hexdigest()[:16]}.safetensors"

    def _identity(self) -> str:
        """sha256 (hex) of all that decides the search."""
        known: dict[int, str] = {}
        about = f"{self.backbone.weights_id} {self.backbone.dtype}"
        own = [trial.identity(about, known) for trials in self.folds for trial in trials]
        rule = (sorted(self.halving.rungs), self.halving.eta, self.places)
        return hashlib.sha256(repr((self.key, rule, own)).encode()).hexdigest()

    def _save(self) -> None:
        """All stacks at one moment in one file, with what those have reached that are gone."""
        assert self.folder is not None
        tensors = {
            f"{at}/{name}": tensor for at, loop in enumerate(self.loops) for name, tensor in packed(loop.stack).items()
        }
        body = {
            "keys": [self.key],  # by which `checkpoint.tidy` asks whether it is still wanted
            "identities": [self._identity()],
            "stacks": [loop.stack.keys for loop in self.loops],
            "waiting": [loop.waiting for loop in self.loops],
            "states": {key: asdict(state) for key, state in self._states().items()},
            "left": [(tried.left, tried.failed) for tried in self.halving.tried],
            "raws": self.raws,
            "sha256": digest(tensors),
        }
        write_bytes(self._file(self.folder), save_bytes(tensors, metadata={"state": json.dumps(body)}))

    def _restore(self) -> None:
        """Go on from the file, where there is a whole one of this very search."""
        if self.folder is None:
            return
        try:
            with safe_open(self._file(self.folder), framework="pt") as opened:
                body: dict[str, Any] = json.loads(opened.metadata()["state"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dict
            if body["identities"] != [self._identity()] or body["sha256"] != digest(tensors):
                return
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return  # none, or a damaged one: no loss but time
        for at, loop in enumerate(self.loops):
            mine = {name.partition("/")[2]: t for name, t in tensors.items() if name.startswith(f"{at}/")}
            unpack(loop.stack, mine, body["stacks"][at])
            loop.waiting = body["waiting"][at]
            loop.states = {key: State.of(body["states"][key]) for key in loop.states}
        self.raws = {int(number): Raw(*raw) for number, raw in body["raws"].items()}
        self._replay([(str(left), bool(failed)) for left, failed in body["left"]])

    def _curve(self, number: int) -> Iterator[tuple[int, dict[str, float]]]:
        trials, states = self.folds[number], self._states()
        found = [states[trial.key] for trial in trials]
        curves = [(state.validation_loss_curve, state.validation_curve) for state in found]
        return joined(curves, [len(trial.validation) for trial in trials])

    def _replay(self, left: Sequence[tuple[str, bool]]) -> None:
        """The curves of the candidates, from those of their folds."""
        for number in range(len(self.folds)):
            for step, reached in self._curve(number):
                self.halving.note(number, step, reached)
            self.halving.tried[number].left, self.halving.tried[number].failed = left[number]
        self.halving.arrived.clear()  # decided about, before the file was written


def _behind(parts: Sequence[Raw]) -> Raw:
    """The scores of folds one behind the other."""
    words = [line for part in parts for line in part.words]
    heads = [line for part in parts if part.head is not None for line in part.head]
    return Raw(words, heads or None)


def _patient(trial: Trial) -> Trial:
    """The same trial, which no validation of its own ends: a candidate's folds go together."""
    return replace(trial, config=trial.config.model_copy(update={"patience": None}))
