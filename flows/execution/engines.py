"""What runs a backbone: this process, or a session of ranks that hold it between them. One interface for both."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar, Unpack

from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.fits import Fits
from dept.adapters.initialise import Vocabulary
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.backbones.shared import shared_backbone
from dept.backbones.tokens import Tokens
from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.distributed.launch import Session
from dept.engine.evaluate import score_rows
from dept.engine.features import features
from dept.engine.generate import generate_ids
from dept.engine.halving import Found
from dept.engine.memory import provenance
from dept.engine.mixture import learn_weights
from dept.engine.search import search
from dept.engine.state import Point, Result, State, Trial
from dept.engine.train import train

Key = TypeVar("Key", bound=Hashable)
Progress = Callable[[int], object]
Item = tuple[int, Row]  # which adapter, and the row


class Told(TypedDict, total=False):
    """Whom `train` tells what; see `dept.engine.train.train`."""

    on_result: Callable[[Result], None] | None
    on_tokens: Callable[[int], None] | None
    on_restored: Callable[[str, State], None] | None
    on_point: Callable[[Point], None] | None


class How(TypedDict):
    """The rule of a search; see `dept.engine.search.search`."""

    rungs: Sequence[int]
    eta: int
    seconds: NotRequired[float | None]
    on_tokens: NotRequired[Callable[[int], None] | None]


class Running(Vocabulary, Protocol):
    """A backbone that trials are run on; `dept.distributed.launch.Session` says what each function does."""

    @property
    def tokens(self) -> Tokens:
        """Text to token ids and back."""

    @property
    def reads_pictures(self) -> bool:
        """Whether it sees pictures by itself."""

    @property
    def weights_id(self) -> str:
        """sha256 (hex) of weights and tokenizer."""

    def check_adapter(self, adapter: Fits) -> None:
        """Refuse an adapter of another backbone."""

    def check_room(self, m: int, s: int) -> None:
        """Refuse a prompt and texts that there are no positions for."""

    def provenance(self) -> dict[str, Any]:
        """What has a part in the numbers and is no part of the question."""

    def train(
        self, trials: Sequence[Trial], options: EngineOptions | None = None, **told: Unpack[Told]
    ) -> dict[str, Result]:
        """Train trials in one stack."""

    def search(
        self, key: str, candidates: Sequence[Sequence[Trial]], options: EngineOptions | None = None, **how: Unpack[How]
    ) -> Found:
        """Try candidates, each with a trial a fold, by successive halving."""

    def score(self, adapters: Sequence[Adapter], items: Sequence[Item], progress: Any = None) -> list[list[float]]:
        """Log-probabilities of every candidate."""

    def features(
        self, items: Sequence[Item], depths: Sequence[float], adapters: Sequence[Adapter] = (), progress: Any = None
    ) -> Tensor:
        """Pooled hidden states of texts."""

    def generate(
        self,
        adapters: Sequence[Adapter],
        items: Sequence[Item],
        max_new_tokens: int,
        progress: Any = None,
    ) -> list[str]:
        """Greedy continuations."""

    def learn_weights(
        self, sources: Sequence[Adapter], rows: Mapping[Key, Sequence[Row]], steps: int, on_tokens: Any = None
    ) -> dict[Key, list[float]]:
        """Weights of sources per target."""

    def close(self, clean: bool = True) -> None:
        """Let go of what is held."""


class InProcess:
    """A backbone that this process holds."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)  # tokens, embed, positions, device, weights_id, check_adapter, ...

    def provenance(self) -> dict[str, Any]:
        """See `dept.engine.memory.provenance`."""
        return provenance(self.backbone)

    def train(
        self, trials: Sequence[Trial], options: EngineOptions | None = None, **told: Unpack[Told]
    ) -> dict[str, Result]:
        """See `dept.engine.train.train`."""
        return train(trials, self.backbone, options, **told)

    def search(
        self, key: str, candidates: Sequence[Sequence[Trial]], options: EngineOptions | None = None, **how: Unpack[How]
    ) -> Found:
        """See `dept.engine.search.search`."""
        return search(key, candidates, self.backbone, options, **how)

    def score(self, adapters: Sequence[Adapter], items: Sequence[Item], progress: Any = None) -> list[list[float]]:
        """See `dept.engine.evaluate.score_rows`."""
        return score_rows(self.backbone, Tensors.of(adapters, self.backbone.device), items, progress=progress)

    def features(
        self, items: Sequence[Item], depths: Sequence[float], adapters: Sequence[Adapter] = (), progress: Any = None
    ) -> Tensor:
        """See `dept.engine.features.features`."""
        tensors = Tensors.of(adapters, self.backbone.device) if adapters else None
        return features(self.backbone, items, depths, tensors, progress=progress)

    def generate(
        self,
        adapters: Sequence[Adapter],
        items: Sequence[Item],
        max_new_tokens: int,
        progress: Any = None,
    ) -> list[str]:
        """See `dept.engine.generate.generate_ids`."""
        if not items:
            return []
        tensors = Tensors.of(adapters, self.backbone.device)
        found = generate_ids(self.backbone, tensors, items, max_new_tokens, progress)
        return [self.backbone.tokens.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def learn_weights(
        self, sources: Sequence[Adapter], rows: Mapping[Key, Sequence[Row]], steps: int, on_tokens: Any = None
    ) -> dict[Key, list[float]]:
        """See `dept.engine.mixture.learn_weights`."""
        return learn_weights(self.backbone, sources, rows, steps, on_tokens)

    def close(self, clean: bool = True) -> None:
        """The process keeps its backbone for whoever asks next."""


def running(name: str, dtype: str | None, device: str | None, ranks: int) -> Running:
    """A backbone to run trials on: in this process (0 ranks), or held by ranks and by no other process.

    Raises:
        InputError: see `Backbone.from_pretrained` and `Session`.
    """
    if ranks:
        return Session(name, ranks, dtype)
    return InProcess(shared_backbone(name, dtype, device))


__all__ = ["InProcess", "Running", "running", "train"]
