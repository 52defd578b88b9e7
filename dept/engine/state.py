"""A trial to train, what it has reached, and what comes of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import torch

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Shape, shape_of
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.config import Calibration, TrainConfig
from dept.engine.evaluate import summarise
from dept.readout import Readout
from dept.trial import goodness
from infra.errors import InputError

_CURVES = ("loss_curve", "validation_curve", "validation_loss_curve")


def learned(row: Row, config: TrainConfig) -> Row:
    """A row as it is trained on: with all its words where the objective is over them, else with the right one."""
    return row if config.objective == "words" else row.only_gold()


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


class Point(NamedTuple):
    """A point of a trial's curve, as it is reached.

    curve: `loss`, of a training step, `validation_loss` (nats) or `validation_score` (percent). at: seconds since the
    epoch.
    """

    key: str
    curve: str
    step: int
    value: float
    at: float


@dataclass(frozen=True)
class Trial:
    """One adapter to train: where it starts, on what, and how.

    Attributes:
        key: its name among the results; checkpoints are found by it.
        start: the adapter it starts as; it is not changed.
        rows, validation: see `dept.batches.tokenise.encode`; without validation rows the last step is kept.
        seed: of the order of the rows.
        calibration: how scores become answers after training, see `dept.engine.readout`; the weight of a head, where
            words and head answer, is chosen in any case. Free answers: no part.
        neutral: content-free inputs, as rows, for contextual calibration.
        readout: how it is to answer, where that was chosen before (on rows that are held out); nothing is chosen then.

    Example:
        >>> rows = encode(backbone.tokens, texts, ("negative", "positive"), labels, config)  # doctest: +SKIP
        >>> start = from_text(backbone, config, "Is it good?", 0)  # doctest: +SKIP
        >>> trial = Trial("mine", start, TrainConfig(), rows, rows)  # doctest: +SKIP
    """

    key: str
    start: Adapter
    config: TrainConfig
    rows: Sequence[Row]
    validation: Sequence[Row]
    seed: int = 0
    calibration: Calibration = "none"
    neutral: Sequence[Row] = ()
    readout: Readout | None = None

    @property
    def shape(self) -> Shape:
        """Trials of one shape share a stack, see `dept.adapters.stack.together`."""
        return shape_of(self.start)

    def check(self, backbone: Backbone) -> None:
        """Refuse what this backbone cannot train.

        Raises:
            InputError: an adapter that does not fit it, or one without a head on an encoder's rows without masks.
        """
        backbone.check_adapter(self.start)
        told = self.start.layers or backbone.family != "encoder" or all(row.masks for row in self.rows)
        if not told:
            raise InputError(
                f"trial {self.key}: its rows have no masks, as for a head (`answers`), and its adapter has no head. "
                "Remedy: rows of answers=words, or a start from dept.adapters.initialise.with_head"
            )

    def learned(self, row: Row) -> Row:
        """A row as it is trained on: with all its words where there is a head, else see `learned`."""
        return row if self.start.layers else learned(row, self.config)

    @property
    def batch_size(self) -> int:
        """Rows per step; no row twice in one step."""
        return min(self.config.batch_size, len(self.rows))

    def identity(self, backbone: str, known: dict[int, str]) -> str:
        """sha256 (hex) of all that decides this trial's steps.

        Args:
            backbone: id of its weights, and their number type.
            known: remembers digests of rows by their id().
        """
        shape = (self.start.alpha, self.start.layout, self.start.layers, self.start.readout)
        recipe = self.config.model_dump_json(exclude=None if self.start.sees else {"lr_pictures"})
        own = (self.key, recipe, self.seed, *shape, backbone)
        digest = hashlib.sha256(repr(own).encode())
        for _, tensor in sorted(self.start.parts.items()):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        for rows in (self.rows, self.validation):
            if id(rows) not in known:
                seen = [(row.seen.picture.sha256, row.seen.at) for row in rows if row.seen]
                known[id(rows)] = hashlib.sha256(f"{list(rows)!r}{seen or ''}".encode()).hexdigest()
            digest.update(known[id(rows)].encode())
        return digest.hexdigest()


@dataclass
class State:
    """What a trial has reached. Its tensors lie in the stack.

    Attributes:
        best: metrics of validation at `best_step`, see `dept.engine.evaluate.summarise`.
        loss_curve: (step, training loss), nats, see `dept.engine.gradients.weights_of`.
        validation_curve, validation_loss_curve: (step, score in percent), (step, loss); the loss chooses the step.
        seconds: this trial's share of the time.
        tokens, padded: trained on, without and with padding.
        failure: why it failed, or None.
        readout: what was chosen after training, see `dept.engine.readout.choose`; `best` is measured with it.
    """

    step: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_loss_curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    padded: int = 0
    failure: str | None = None
    readout: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The state that `dataclasses.asdict` gave, by way of JSON; what it lacks stays at its start."""
        named = {f.name: body[f.name] for f in fields(cls) if f.name in body}
        curves = {n: [(int(step), float(value)) for step, value in named[n]] for n in _CURVES if n in named}
        return cls(**{**named, **curves})

    def stepped(self, loss: float, norm: float, max_loss: float) -> None:
        """Note a step, with its loss and gradient norm; a step that diverged is a failure."""
        self.loss_curve.append((self.step, loss))
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.failure = f"loss {loss}, gradient norm {norm} at step {self.step}: not finite. Lower the rates"
        elif loss > max_loss:
            self.failure = f"loss {loss:.2f} at step {self.step} is above max_loss={max_loss}"

    def is_due(self, config: TrainConfig) -> bool:
        """Whether this step is to be validated, and has not been."""
        seen = bool(self.validation_curve) and self.validation_curve[-1][0] == self.step
        reached = self.step % config.eval_every == 0 or self.step >= config.end
        return reached and not seen and self.failure is None

    def validated(self, scores: Sequence[Sequence[float]], rows: Sequence[Row]) -> bool:
        """Note a validation, by the scores of its rows; whether its step is to be kept.

        Without rows there is nothing to choose by: the last step is kept.
        """
        found = summarise(scores, rows) if rows else {}
        better = not found or not self.best or goodness(found) > goodness(self.best)
        if found:
            self.validation_curve.append((self.step, found["score"]))
            self.validation_loss_curve.append((self.step, found["loss"]))
        if better:
            self.best, self.best_step = found, self.step
        return better

    def is_done(self, config: TrainConfig) -> bool:
        """Whether the trial has failed, made all its steps or lost its patience."""
        if self.failure or self.step >= config.end:
            return True
        seen = self.validation_curve[-1][0] if self.validation_curve else self.best_step
        return config.patience is not None and seen - self.best_step >= config.patience


@dataclass
class Result:
    """A trained trial: the adapter of the step with the lowest validation loss, or the reason of its failure.

    `peak_memory_mib`: of the process that trained it, MiB.
    """

    key: str
    adapter: Adapter
    state: State
    peak_memory_mib: float

    @property
    def failure(self) -> str | None:
        """Why the trial failed, or None."""
        return self.state.failure
