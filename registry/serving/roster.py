"""Who answers for which task of a backbone: MLflow's champions, looked for anew now and then."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from dept.backbones.shared import shared_backbone
from infra.errors import InputError
from infra.settings import settings
from registry.promotion import versions
from registry.promotion.model import ADAPTER_PATH
from registry.promotion.names import CHAMPION
from registry.serving.predictor import Predictor, load_adapter, needs_backbone
from registry.tracking import Tracker
from registry.tracking.patience import first_line

SOONEST = 1.0  # seconds between two looks that an unknown task asks for
WAIT = 10.0  # seconds that a request waits for a look which may tell of its task
_log = logging.getLogger(__name__)


class Roster:
    """Champions of one backbone, by task. A look costs one request to MLflow, and one more for each new champion.

    Looks run beside the requests, never two at once; while MLflow is away those who are known go on answering.

    Args:
        tracker: where champions are looked for.
        backbone: name or path of what is loaded. backbone_id: sha256 of its weights.
        every: seconds between two looks; default $DEPT_SERVE_POLL.

    Raises:
        InputError: MLflow does not answer.
    """

    def __init__(self, tracker: Tracker, backbone: str, backbone_id: str, every: float | None = None) -> None:
        self.tracker, self.backbone, self.backbone_id = tracker, backbone, backbone_id
        self.every = settings().serve_poll if every is None else every
        self._known: dict[str, Predictor] = {}
        self._failed: dict[str, str] = {}
        self._alone = threading.Lock()
        self._looking: threading.Thread | None = None
        self._looked = time.monotonic()
        self._look()

    def champions(self, wanted: Collection[str] = ()) -> Mapping[str, Predictor]:
        """Those known now; a look is begun where the last is old.

        Args:
            wanted: tasks that are asked for: where one is not known, a look is waited for, if the last is not just now.
        """
        missing = any(task not in self._known for task in wanted)
        age = time.monotonic() - self._looked
        if age >= self.every or (missing and age >= SOONEST):
            looking = self._begin()
            if missing:
                looking.join(WAIT)
        return self._known

    def why_not(self, task: str) -> str:
        """Why a champion that MLflow names cannot answer; "" where it names none."""
        return self._failed.get(task, "")

    def _begin(self) -> threading.Thread:
        with self._alone:
            if self._looking is None or not self._looking.is_alive():
                self._looked = time.monotonic()
                self._looking = threading.Thread(target=self._look_safely, name="champions", daemon=True)
                self._looking.start()
            return self._looking

    def _look_safely(self) -> None:
        try:
            self._look()
        except Exception as error:  # a thread's own would be lost; those who are known go on answering
            _log.warning("champions are not looked for anew: %s", first_line(error))

    def _look(self) -> None:
        """Load champions that are new; the table is exchanged as a whole, so a request sees one or the other."""
        found: dict[str, Predictor] = {}
        failed: dict[str, str] = {}
        for model in versions.models_of_backbone(self.tracker, self.backbone_id):
            task, number = model.tags.get("task"), model.aliases.get(CHAMPION)
            if task is None or number is None:
                continue
            known = self._known.get(task)
            if known is not None and (known.name, known.version) == (model.name, str(number)):
                found[task] = known
                continue
            try:
                found[task] = self._load(model.name, str(number))
                _log.info("task %s: %s, version %s answers", task, model.name, number)
            except Exception as error:  # whatever is wrong with one champion, the others answer
                failed[task] = f"the champion of task {task} cannot be loaded: {first_line(error)}"
                _log.warning("%s", failed[task])
                if known is not None:
                    found[task] = known
        self._known, self._failed = found, failed
        self._looked = time.monotonic()

    def _load(self, name: str, number: str) -> Predictor:
        version = versions.by_number(self.tracker, name, number)
        if version is None:
            raise InputError(f"{name} has no version {number} any more")
        with tempfile.TemporaryDirectory(prefix="dept-champion-") as scratch:
            place = Path(scratch) if self.tracker.is_server else None
            folder = self.tracker.download(f"{version.source}/{ADAPTER_PATH}", place)
            adapter = load_adapter(folder, version.tags.get("adapter_sha256"))
        dtype = adapter.metadata.get("dtype")
        made = Predictor(adapter, shared_backbone(self.backbone, dtype) if needs_backbone(adapter) else None)
        made.name, made.version = name, number
        return made
