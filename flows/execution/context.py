"""What a run works with: plan, tasks, rows, the stores, and the backbone, loaded on first use. No torch until then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from dept.config import Dtype, PictureMap
from dept.trial import TrialSpec
from flows.execution.stopping import Stopping
from flows.planning.trials import Inputs
from infra.errors import InputError
from infra.settings import settings
from registry.ledger import Ledger
from registry.store import Store
from registry.tracking import Begun, Tracker
from tasks.spec import Task
from tasks.splits import Splits

if TYPE_CHECKING:
    from flows.execution.engines import Running

T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """How trials are trained: in this process (0 ranks), or by DeepSpeed over ranks."""

    ranks: int = 0


def unseen(_name: str, body: Callable[[], T]) -> T:
    """Do a part of the work that no page shows."""
    return body()


@dataclass
class RunContext:
    """One run in one process, for controller and worker alike; handed on explicitly, never across processes.

    Attributes:
        order: the plan, or the order of a retraining.
        backbone_name: as the order gives it. backbone_id: sha256 of weights and tokenizer. d: width of its embeddings.
        room: tokens that it can read at once; None: no end. computed, chat: see `TrialSpec`.
        tasks, splits: by name.
        reads_pictures: whether its description says that it sees pictures by itself. encoders: see `Inputs`.
        run_id: of the ledger. parent_run: the MLflow run that the trials' runs are below.
        waiting: trials, by fingerprint, that this process leaves alone until their start is there; shared by copies.
        begun: what is known of the training of trials that this process has not closed, by fingerprint and attempt.
        stopping: whether the work is to end. shown: does a named part of it, such as a stack, as a task run of Prefect.
    """

    order: BaseModel
    backbone_name: str
    backbone_id: str
    d: int
    dtype: Dtype
    device: str | None
    engine: Engine
    tasks: Mapping[str, Task]
    splits: Mapping[str, Splits]
    ledger: Ledger
    store: Store
    tracker: Tracker
    room: int | None = None
    computed: str | None = None
    chat: str | None = None
    tells_words: bool = True
    hidden: int | None = None
    reads_pictures: bool = False
    encoders: Mapping[str, PictureMap] = field(default_factory=dict)
    run_id: str = ""
    parent_run: str = ""
    waiting: dict[str, TrialSpec] = field(default_factory=dict, repr=False)
    begun: dict[tuple[str, int], Begun] = field(default_factory=dict, repr=False)  # shared by copies
    stopping: Stopping = field(default_factory=Stopping, repr=False)
    shown: Callable[[str, Callable[[], None]], None] = field(default=unseen, repr=False)
    _running: dict[str, Running] = field(default_factory=dict, repr=False)  # by number type; shared by copies

    @property
    def backbone(self) -> Running:
        """The backbone in the number type of this context, in this process or held by ranks; loaded on first use.

        Raises:
            InputError: see `flows.execution.engines.running`.
        """
        if self.dtype not in self._running:
            from flows.execution.engines import running  # torch

            self._running[self.dtype] = running(self.backbone_name, self.dtype, self.device, self.engine.ranks)
        return self._running[self.dtype]

    def close(self, clean: bool = True) -> None:
        """Let the ranks end, where there are any; `clean`: nothing went wrong."""
        while self._running:
            self._running.popitem()[1].close(clean)
        with contextlib.suppress(InputError):
            while self.begun:
                self.discard(self.begun.popitem()[1])

    def discard(self, begun: Begun | None) -> None:
        """Delete the MLflow run of a trial that was begun for nothing, where there is one."""
        if begun is not None and begun.run_id is not None:
            self.tracker.discard(begun.run_id)

    def hurry(self) -> None:
        """The process is about to end: a store that is away is hardly waited for any more."""
        self.ledger.hurry()
        self.tracker.patience.hurry()

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds without progress."""
        return settings().lease_seconds

    @property
    def inputs(self) -> Inputs:
        """What the trials of the run stand on."""
        about = (self.backbone_id, self.d, self.dtype, self.room, self.computed, self.chat, self.tells_words)
        return Inputs(self.tasks, self.splits, *about, self.encoders)
