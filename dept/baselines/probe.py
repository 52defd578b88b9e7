"""Linear probe: logistic regression on the frozen backbone's hidden states, mean over the text (Alain & Bengio 2016,
arXiv 1610.01644). Nothing stands in front of the text and nothing is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from dept.adapters.head import Head
from dept.baselines.files import read_baseline, write_baseline
from dept.baselines.linear import Option, Score, choose, fit, log_probs
from dept.batches.tokenise import Row
from dept.trial import PROBE_C, PROBE_LAYERS

DEPTHS = tuple(sorted({depth for layers in PROBE_LAYERS for depth in layers}))  # what `train_probe` is given
OPTIONS = tuple(Option(layers, c) for layers in PROBE_LAYERS for c in PROBE_C)
TENSORS = "probe.safetensors"


class Probe:
    """A trained probe.

    Attributes:
        option: the depths that it reads, and C.
        head: over them.
        validation: metrics that the option was chosen by.
    """

    def __init__(self, option: Option, head: Head, validation: dict[str, float]) -> None:
        self.option, self.head, self.validation = option, head, validation

    @property
    def trainable(self) -> int:
        """Numbers that were fitted."""
        return self.head.weight.numel() + self.head.bias.numel()

    def score(self, features: Tensor) -> list[list[float]]:
        """Log-probabilities (nats) over the labels of texts, from their features at `DEPTHS`: [rows, DEPTHS * d]."""
        return log_probs(self.head, _at(np.asarray(features), self.option.what))

    def save(self, folder: str | Path, **metadata: Any) -> str:
        """Write the probe durably; returns the sha256 (hex) of its manifest, which holds those of its files.

        Raises:
            InputError: see `dept.baselines.files.write_baseline`.
        """
        told = {"method": "probe", "layers": list(self.option.what), "c": self.option.c, "trainable": self.trainable}
        more = {"validation": self.validation, "metadata": metadata}
        tensors = {name: value.contiguous() for name, value in self.head.named().items()}
        return write_baseline(folder, lambda into: save_file(tensors, into / TENSORS), {**told, **more})

    @classmethod
    def load(cls, folder: str | Path) -> Probe:
        """Read a probe that `save` wrote.

        Raises:
            InputError: see `dept.baselines.files.read_baseline`.
        """
        told = read_baseline(folder)
        head = Head.of(load_file(Path(folder) / TENSORS))
        return cls(Option(tuple(told["layers"]), told["c"]), head, told["validation"])


def train_probe(
    features: Tensor, rows: Sequence[Row], checks: Tensor, validation: Sequence[Row], option: Option | None = None
) -> Probe:
    """Choose layers and C by the loss on the validation rows, and fit on the shots.

    Args:
        features: of the shots at `DEPTHS`, see `dept.engine.features.features`; rows: the shots.
        checks, validation: the same of the rows that validate; where there are none, the shots are cross-validated.
        option: one that was chosen before.

    Raises:
        InputError: no shots.
    """
    labels = len(rows[0].candidates) if rows else 0

    def make(option: Option, inputs: Any, gold: Sequence[int]) -> Probe:
        return Probe(option, fit(_at(inputs, option.what), gold, labels, option.c), {})

    shots, found = np.asarray(features), dict[str, float]()
    if option is None:
        given = np.asarray(checks), validation
        option, found = choose(lambda *said: make(*said).score, OPTIONS, shots, rows, given)
    probe = make(option, shots, [row.gold for row in rows])
    probe.validation = found
    return probe


def train_head(features: Tensor, rows: Sequence[Row], checks: Tensor, validation: Sequence[Row]) -> Head:
    """A probe over all that it is given, C chosen as in `train_probe`: what an adapter's head starts as.

    Args:
        features, checks: of shots and validation rows under the adapter's own pass, [rows, F].

    Raises:
        InputError: no shots.
    """
    labels = len(rows[0].candidates) if rows else 0

    def make(option: Option, inputs: Any, gold: Sequence[int]) -> Score:
        head = fit(inputs, gold, labels, option.c)
        return lambda others: log_probs(head, others)

    shots = np.asarray(features)
    option, _ = choose(make, [Option((), c) for c in PROBE_C], shots, rows, (np.asarray(checks), validation))
    return fit(shots, [row.gold for row in rows], labels, option.c)


def _at(features: Any, layers: Sequence[float]) -> Any:
    """The columns of some depths, of features at `DEPTHS`."""
    parts = features.reshape(len(features), len(DEPTHS), -1)
    return parts[:, [DEPTHS.index(depth) for depth in layers]].reshape(len(features), -1)
