"""A linear baseline that was fitted: its answers, its folder, and the backbone that it goes with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from dept.adapters.fits import Legacy, check_weights
from dept.adapters.head import Head
from dept.backbones.backbone import Backbone
from dept.baselines.files import read_baseline, write_baseline
from dept.baselines.linear import Chosen, Inputs, Option, log_probs
from dept.config import AdapterConfig
from dept.readout import Readout
from tasks.pictures import Picture


class Regression(ABC):
    """Logistic regression on what texts are turned into, and how its scores become answers.

    Attributes:
        method: its name. file: of its tensors. reads: what its manifest calls the first part of an option.
        needs_backbone: texts are turned into features by a backbone.
        chosen: the option, what it was chosen by, and the readout that answers. head: over the features.
        metadata: template, labels, words, backbone and so on, as of an adapter, and `s`, see `shape`.
        sha256: of the manifest, which holds those of the files; None before it is saved or loaded.
    """

    method: ClassVar[str]
    file: ClassVar[str]
    reads: ClassVar[str]
    needs_backbone: ClassVar[bool]

    def __init__(self, chosen: Chosen, head: Head) -> None:
        self.chosen, self.head = chosen, head
        self.metadata: dict[str, Any] = {}
        self.sha256: str | None = None

    @property
    def option(self) -> Option:
        """What it reads of each text, and C."""
        return self.chosen.option

    @property
    def validation(self) -> dict[str, float]:
        """The metrics that the option was chosen by."""
        return self.chosen.found

    @property
    def shape(self) -> AdapterConfig:
        """How long the texts are that it reads."""
        return AdapterConfig(m=1, r=0, s=self.metadata["s"])

    @property
    def trainable(self) -> int:
        """Numbers that were fitted."""
        return self.head.weight.numel() + self.head.bias.numel()

    def score(self, inputs: Inputs) -> list[list[float]]:
        """Log-probabilities (nats) over the labels of texts, from what `train_probe` or `train_tfidf` are given."""
        if not len(inputs):
            return []
        return [self.chosen.readout.answer(line) for line in log_probs(self.head, self._columns(inputs))]

    @abstractmethod
    def answers(
        self, texts: Sequence[str], backbone: Backbone | None, pictures: Sequence[Picture | None] = ()
    ) -> list[list[float]]:
        """Log-probabilities (nats) over the labels of texts, made by the template of its metadata.

        Args:
            backbone: where it needs one.
            pictures: of each text, where it reads them; empty: none has any.

        Raises:
            InputError: texts or pictures that the backbone cannot read.
        """

    @abstractmethod
    def _columns(self, inputs: Inputs) -> Any:
        """What the head reads [rows, F], dense or sparse."""

    def _more(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What else the manifest and the tensors hold."""
        return {}, {}

    @classmethod
    @abstractmethod
    def _made(cls, chosen: Chosen, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """What these files hold."""

    def save(self, folder: str | Path, **metadata: Any) -> str:
        """Write it durably; returns the sha256 (hex) of its manifest, which holds those of its files.

        Raises:
            InputError: see `dept.baselines.files.write_baseline`.
        """
        more, extra = self._more()
        known = {**self.metadata, **metadata}
        told = {
            "method": self.method,
            self.reads: list(self.option.what),
            "c": self.option.c,
            "trainable": self.trainable,
            **more,
            "readout": self.chosen.readout.body,
            "validation": self.validation,
            "metadata": known,
        }
        tensors = {name: value.contiguous() for name, value in (self.head.named() | extra).items()}
        digest = write_baseline(folder, lambda into: save_file(tensors, into / self.file), told)
        self.metadata, self.sha256 = known, digest
        return digest

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: see `dept.baselines.files.read_baseline`.
        """
        told, digest = read_baseline(folder)
        tensors = load_file(Path(folder) / cls.file)
        option = Option(tuple(told[cls.reads]), told["c"])
        found = cls._made(Chosen(option, told["validation"], Readout.of(told.get("readout", {}))), told, tensors)
        found.metadata, found.sha256 = dict(told["metadata"]), digest
        return found

    def check_fits(self, backbone_name: str, backbone_id: str, d: int, legacy: Legacy = tuple) -> None:
        """Refuse a backbone whose states it was not fitted on; what needs none goes with any.

        Raises:
            InputError: other weights.
        """
        if self.needs_backbone:
            check_weights(self.metadata, backbone_name, backbone_id, legacy)
