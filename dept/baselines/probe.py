"""Linear probe: logistic regression on the frozen backbone's hidden states, mean over the text (Alain & Bengio 2016,
arXiv 1610.01644). Nothing stands in front of the text and nothing is added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from dept.adapters.head import Head
from dept.backbones.backbone import Backbone
from dept.baselines.linear import Chosen, Inputs, Option, Way, choose, fit
from dept.baselines.regression import Regression
from dept.batches.tokenise import Row, encode
from dept.constants import PROBE_C, PROBE_LAYERS
from dept.engine.features import features
from tasks.pictures import Picture

DEPTHS = tuple(sorted({depth for layers in PROBE_LAYERS for depth in layers}))  # what `train_probe` is given


class Probe(Regression):
    """A trained probe. Its option: the depths that it reads, and C; its inputs: features at `DEPTHS`, [rows, F]."""

    method, file, reads, needs_backbone = "probe", "probe.safetensors", "layers", True

    def answers(
        self, texts: Sequence[str], backbone: Backbone | None, pictures: Sequence[Picture | None] = ()
    ) -> list[list[float]]:
        """See `Regression`."""
        assert backbone is not None
        return self.score(features(backbone, [(0, row) for row in self.rows(texts, backbone, pictures)], DEPTHS))

    def rows(self, texts: Sequence[str], backbone: Backbone, pictures: Sequence[Picture | None] = ()) -> list[Row]:
        """Texts, and pictures, as it reads them; see `Regression.answers`."""
        about = self.metadata
        return encode(
            backbone.tokens,
            texts,
            tuple(about["words"]),
            None,
            self.shape,
            pictures,
            cut=about.get("cut"),
            template=about["template"],
            max_length=about.get("max_length"),
            chat=bool(about.get("chat", False)),
        )

    def _columns(self, inputs: Inputs) -> Any:
        return _at(np.asarray(inputs), self.option.what)

    @classmethod
    def _made(cls, chosen: Chosen, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(chosen, Head.of(dict(tensors)))


def train_probe(
    features: Tensor,
    rows: Sequence[Row],
    checks: Tensor,
    validation: Sequence[Row],
    chosen: Chosen | None = None,
    tempered: bool = True,
) -> Probe:
    """Choose layers, C and a temperature by the loss on the validation rows, and fit on the shots.

    Args:
        features: of the shots at `DEPTHS`, see `dept.engine.features.features`; rows: the shots.
        checks, validation: the same of the rows that validate; where there are none, the shots are cross-validated.
        chosen: what was chosen before. tempered: with a temperature, see `dept.baselines.linear.judged`.

    Raises:
        InputError: no shots.
    """
    shots = np.asarray(features)
    chosen = chosen or choose(WAY, shots, rows, (np.asarray(checks), validation), tempered)
    return Probe(chosen, _fitted(_at(shots, chosen.option.what), rows, chosen.option.c))


def train_head(features: Tensor, rows: Sequence[Row], checks: Tensor, validation: Sequence[Row]) -> Head:
    """A probe over all that it is given, C chosen by the plain loss: what an adapter's head starts as.

    Args:
        features, checks: of shots and validation rows under the adapter's own pass, [rows, F].

    Raises:
        InputError: no shots.
    """
    shots = np.asarray(features)
    chosen = choose(OF_ALL, shots, rows, (np.asarray(checks), validation), tempered=False)
    return _fitted(shots, rows, chosen.option.c)


def _fitted(shots: Any, rows: Sequence[Row], c: float) -> Head:
    return fit(shots, [row.gold for row in rows], len(rows[0].candidates), c)


def _at(features: Any, layers: Sequence[float]) -> Any:
    """The columns of some depths, of features at `DEPTHS`."""
    parts = features.reshape(len(features), len(DEPTHS), -1)
    return parts[:, [DEPTHS.index(depth) for depth in layers]].reshape(len(features), -1)


WAY = Way(
    tuple(Option(layers, c) for layers in PROBE_LAYERS for c in PROBE_C),
    lambda layers, known, asked: (_at(known, layers), _at(asked, layers)),
)
OF_ALL = Way(tuple(Option((), c) for c in PROBE_C), lambda _, known, asked: (known, asked))
