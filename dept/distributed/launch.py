"""A backbone that ranks hold between them: start torchrun, hand it jobs, hand on results, leave no process behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.fits import Fits
from dept.backbones.describe import BackboneInfo, default_dtype, describe
from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.distributed import job, processes
from dept.distributed.agent import Agent, RankDiedError
from dept.engine.halving import Found
from dept.engine.state import Point, Result, State, Trial
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home

__all__ = ["RankDiedError", "Session"]
Key = TypeVar("Key", bound=Hashable)
Progress = Callable[[int], None]


class Session:
    """A backbone that DeepSpeed ZeRO-3 shards over processes of this machine; no other process holds it.

    The ranks start with the first job and stay until `close`; they end when this process ends, however it ends. A
    session whose ranks died is over.

    Args:
        backbone: catalogue name, folder or hub id, as for `Backbone.from_pretrained`; each rank loads its share.
        ranks: gloo between CPU ranks, NCCL between CUDA devices, one device a rank.
        dtype: "float32" or "bfloat16"; default float32 on CPU and bfloat16 on CUDA.
        folder: where the session's files lie, must be new; default below home()/jobs. When all is done the ranks' log
            and what each of them held (`ranks/N.json`) stay; after a failure all does.

    Attributes:
        info: what the backbone is; name, tokens, d and positions are those of a loaded backbone.

    Raises:
        InputError: an unknown backbone, more ranks than devices, a dtype that cannot be sharded.

    Example:
        >>> with Session("smollm2-135m", ranks=2) as backbone:  # doctest: +SKIP
        ...     start = from_text(backbone, config, "Is it good?", seed=0)
        ...     result = backbone.train([Trial("mine", start, TrainConfig(), rows, rows)])["mine"]
        ...     scores = backbone.score([result.adapter], [(0, row) for row in test_rows])
    """

    def __init__(
        self,
        backbone: str,
        ranks: int = 2,
        dtype: str | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        self.cuda, self.ranks = torch.cuda.is_available(), ranks
        self.dtype = dtype or default_dtype("cuda" if self.cuda else "cpu")
        processes.check(ranks, self.dtype, self.cuda)
        # An unknown name ends here, and an embedded backbone is converted once, not by each rank.
        self.info: BackboneInfo = describe(backbone, self.dtype)
        self.folder = (folder or home() / "jobs" / uuid.uuid4().hex[:12]).absolute()
        settings = job.Settings(backbone, self.dtype, ranks, process_id())
        self._agent = Agent(self.folder, settings, self.cuda)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(clean=kind is None)

    name = property(lambda self: self.info.name, doc="Short name, for people.")
    reads_pictures = False  # ranks hold text decoders alone
    tokens = property(lambda self: self.info.tokens, doc="Text to token ids and back.")
    d = property(lambda self: self.info.d, doc="Width of the input embeddings.")
    weights_id = property(lambda self: self.info.backbone_id, doc="sha256 (hex) of weights and tokenizer.")

    @property
    def positions(self) -> int | None:
        """Tokens the backbone was made for; None where it sets no bound."""
        return self.info.positions

    @property
    def device(self) -> torch.device:
        """Where this process keeps what it is given: the ranks' devices are theirs."""
        return torch.device("cpu")

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """See `Tokens.encode_texts`."""
        return self.info.tokens.encode_texts(texts, continues)

    def check_in_context(self) -> None:
        """See `Backbone.check_in_context`."""
        if self.info.family != "causal":
            raise InputError("in-context: for causal backbones only")

    def check_adapter(self, adapter: Fits) -> None:
        """See `Backbone.check_adapter`."""
        adapter.check_fits(self.info.name, self.info.backbone_id, self.info.d, self.info.legacy_ids)

    def check_room(self, m: int, s: int) -> None:
        """See `Backbone.check_room`."""
        self.info.check_room(m, s)

    def provenance(self) -> dict[str, Any]:
        """See `dept.engine.memory.provenance`, as rank 0 told it, and the number of ranks; {} before the first job."""
        file = self.folder / "ranks" / "0.json"
        return {**job.read_json(file)["provenance"], "ranks": self.ranks} if file.is_file() else {}

    def train(
        self,
        trials: Sequence[Trial],
        options: EngineOptions | None = None,
        *,
        on_result: Callable[[Result], None] | None = None,
        on_tokens: Progress | None = None,
        on_restored: Callable[[str, State], None] | None = None,
        on_point: Callable[[Point], None] | None = None,
    ) -> dict[str, Result]:
        """Train trials as `dept.train` does; every function is called in this process.

        Raises:
            RankDiedError: a rank ended early; every other rank is gone by then. Results handed to
                `on_result` stay good, and a session with the same checkpoint folder goes on with the rest.
            InputError: a backbone that cannot be loaded, a full disk.
        """
        if not trials:
            return {}
        options = _absolute(options)
        keys = [trial.key for trial in trials]
        results: dict[str, Result] = {}
        restored: set[str] = set()
        seen = 0  # bytes of points

        def look(work: Path) -> None:
            nonlocal seen
            if on_restored is not None and (work / job.RESTORED).is_file():
                for key, body in job.read_json(work / job.RESTORED).items():
                    if key not in restored:
                        restored.add(key)
                        on_restored(key, State.of(body))
            if on_point is not None:
                points, seen = job.read_points(work, seen)
                for point in points:
                    on_point(point)
            for result in job.read_results(work, keys, results):
                results[result.key] = result
                if on_result is not None:
                    on_result(result)

        self._agent.do(lambda work: job.write_trials(work, trials, options), look, on_tokens)
        return results

    def search(
        self,
        key: str,
        candidates: Sequence[Sequence[Trial]],
        options: EngineOptions | None = None,
        *,
        rungs: Sequence[int],
        eta: int,
        seconds: float | None = None,
        on_tokens: Progress | None = None,
    ) -> Found:
        """Try candidates as `dept.engine.search.search`; all of them have as many folds.

        Raises:
            RankDiedError, InputError: see `train`.
        """
        trials = [trial for folds in candidates for trial in folds]
        told = {"search": key, "folds": len(candidates[0]), "rungs": list(rungs), "eta": eta, "seconds": seconds}
        work = self._agent.do(
            lambda at: job.write_trials(at, trials, _absolute(options), "search", **told), progress=on_tokens
        )
        return Found.of(job.read_json(work / job.ANSWER))

    def score(
        self,
        adapters: Sequence[Adapter],
        items: Sequence[tuple[int, Row]],
        progress: Progress | None = None,
    ) -> list[list[float]]:
        """Log-probabilities (nats) of every candidate of (adapter id, row) items, as `dept.engine.evaluate.score_rows`.

        Args:
            adapters: of one shape.

        Raises:
            RankDiedError, InputError: see `train`.
        """
        return self._ask("score", adapters, items, progress) if items else []

    def features(
        self,
        items: Sequence[tuple[int, Row]],
        depths: Sequence[float],
        adapters: Sequence[Adapter] = (),
        progress: Progress | None = None,
    ) -> Tensor:
        """Pooled hidden states of (adapter id, row) items, as `dept.engine.features.features`.

        Args:
            adapters: of one shape; none: the bare backbone.

        Raises:
            RankDiedError, InputError: see `train`.
        """
        if not items:
            return torch.zeros(0, len(depths) * self.d)

        def write(work: Path) -> None:
            job.write_items(work, "features", adapters, items, depths=list(depths))

        return load_file(self._agent.do(write, progress=progress) / job.TENSOR)["found"]

    def generate(
        self,
        adapters: Sequence[Adapter],
        items: Sequence[tuple[int, Row]],
        max_new_tokens: int,
        progress: Progress | None = None,
    ) -> list[str]:
        """Greedy continuations of (adapter id, row) items (`dept.batches.tokenise.encode_open`), as `dept.generate`.

        Raises:
            RankDiedError, InputError: see `train`.
        """
        found = self._ask("generate", adapters, items, progress, most=max_new_tokens) if items else []
        return [self.info.tokens.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def learn_weights(
        self,
        sources: Sequence[Adapter],
        rows: Mapping[Key, Sequence[Row]],
        steps: int,
        on_tokens: Progress | None = None,
    ) -> dict[Key, list[float]]:
        """Weights of sources per target, as `dept.engine.mixture.learn_weights`.

        Raises:
            RankDiedError, InputError: see `train`.
        """
        items = [(target, row) for target, part in enumerate(rows.values()) for row in part]
        return dict(zip(rows, self._ask("mixture", sources, items, on_tokens, steps=steps), strict=True))

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., d], float32, of token ids [...].

        Raises:
            RankDiedError, InputError: see `train`.
        """

        def write(work: Path) -> None:
            work.mkdir(parents=True)
            job.write_json(work / job.JOB, {"kind": "embed", "ids": ids.tolist()})

        return load_file(self._agent.do(write) / job.TENSOR)["found"]

    def close(self, clean: bool = True) -> None:
        """Let the ranks end; `clean`: what they need no more is removed."""
        self._agent.close(clean)

    def _ask(
        self,
        kind: str,
        adapters: Sequence[Adapter],
        items: Sequence[tuple[int, Row]],
        progress: Progress | None,
        **told: Any,
    ) -> list[Any]:
        work = self._agent.do(lambda at: job.write_items(at, kind, adapters, items, **told), progress=progress)
        found: list[Any] = job.read_json(work / job.ANSWER)
        return found


def _absolute(options: EngineOptions | None) -> EngineOptions:
    options = options or EngineOptions()
    if options.checkpoint_folder is None:
        return options
    return options.model_copy(update={"checkpoint_folder": options.checkpoint_folder.absolute()})
