"""Stacks on disk, in one folder for all: each trial finds its state by its own key, whichever stack saved it.

A file holds one stack at one moment, whole or not at all, so that a killed run goes on as it would have gone on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import Tensor

from dept.adapters.picture_map import NAMES as PICTURE
from dept.adapters.stack import Training
from dept.engine.state import State
from infra.files import write_bytes

DAYS = 30  # a file that nobody has asked for so long belongs to trials that are done or given up
_log = logging.getLogger(__name__)


class Checkpoint:
    """Where one stack saves itself, and what earlier ones left.

    Args:
        folder: shared by all stacks; None: nothing is saved or found.
        identities: key -> `Trial.identity` of the trials that are to be trained.
    """

    def __init__(self, folder: Path | None, identities: Mapping[str, str]) -> None:
        self.folder, self.identities = folder, identities
        self.file = folder / f"{uuid.uuid4().hex}.safetensors" if folder else None
        self._read: dict[Path, set[str]] = {}  # files that trials were taken from, and all keys that they hold

    def save(self, training: Training, states: Mapping[str, State]) -> None:
        """Write the stack's tensors and the trials' states into one file, synced and renamed.

        Raises:
            OSError: the disk is full; the former checkpoint stays.
        """
        if self.file is None:
            return
        tensors = packed(training)
        body = {
            "keys": training.keys,
            "identities": [self.identities[key] for key in training.keys],
            "states": {key: asdict(states[key]) for key in training.keys},
            "sha256": digest(tensors),
        }
        write_bytes(self.file, save_bytes(tensors, metadata={"state": json.dumps(body)}))
        for held in [file for file, keys in self._read.items() if keys <= set(self.identities)]:
            held.unlink(missing_ok=True)  # all of it is in the new file, or done
            del self._read[held]

    def restore(self, training: Training, aside: bool = True) -> dict[str, State]:
        """Fill an empty stack with the trials that were saved; of several states of one trial the furthest counts.

        A file that is damaged is no loss but time: it is put aside, the log says so, and its trials start anew.

        Args:
            aside: whether this process puts damaged files aside.

        Returns:
            key -> state, in the order of the stack.
        """
        found: dict[str, tuple[State, dict[str, Tensor]]] = {}
        for file in sorted(self.folder.glob("*.safetensors"), key=_age) if self.folder else []:
            for key, state, tensors in self._of(file, training, aside):
                if key not in found or state.step > found[key][0].step:
                    found[key] = state, tensors
        if not found:
            return {}
        keys = list(found)  # in the order of the stack that saved them, so that its bits come out again
        names = packed(training)
        unpack(training, {name: torch.stack([found[key][1][name] for key in keys]) for name in names}, keys)
        return {key: found[key][0] for key in keys}

    def _of(self, file: Path, training: Training, aside: bool) -> list[tuple[str, State, dict[str, Tensor]]]:
        """The wanted trials of a file that fit into the stack, each with its own tensors."""
        try:
            with safe_open(file, framework="pt") as opened:
                body = json.loads(opened.metadata()["state"])
                pairs = list(zip(body["keys"], body["identities"], strict=True))
                wanted = [i for i, (key, identity) in enumerate(pairs) if self.identities.get(key) == identity]
                if not wanted:
                    return []
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dict
            if digest(tensors) != body["sha256"]:
                raise ValueError("its sha256 is another")
            shapes = {f"{part}.{n}": t.shape[1:] for part, old in training.dump().items() for n, t in old.items()}
            blank = {n: torch.zeros(shape) for n, shape in shapes.items() if n.partition(".")[2] in PICTURE}
            made = []
            for i in wanted:
                key, own = body["keys"][i], {n: t[i] for n, t in tensors.items()}
                if training.starts[key].sees is None:
                    own |= blank  # beside whatever maps it was saved, and goes on
                if all(n in own and own[n].shape == shape for n, shape in shapes.items()):
                    made.append((key, State.of(body["states"][key]), own))
            if not made:
                return []
        except FileNotFoundError:
            return []  # its stack has just ended
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            if aside:
                with contextlib.suppress(OSError):
                    file.replace(file.with_suffix(".damaged"))
                _log.warning("checkpoint %s is damaged (%s): put aside, its trials start anew", file, error)
            return []
        self._read[file] = set(body["keys"])
        return made

    def clear(self) -> None:
        """Remove what trials that are all done need no more, and files that nobody has asked for in a month."""
        if self.folder is None or self.file is None:
            return
        for file in (self.file, *(f for f, keys in self._read.items() if keys <= set(self.identities))):
            file.unlink(missing_ok=True)
        tidy(self.folder, lambda _: True)


def tidy(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Remove checkpoints none of whose trials is wanted any more, and those older than `DAYS`.

    Args:
        wanted: by a trial's key, such as whether the ledger holds it as neither finished nor failed.
    """
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):
            old = time.time() - file.stat().st_mtime > DAYS * 86_400
            with safe_open(file, framework="pt") as opened:
                keys: list[Any] = json.loads(opened.metadata()["state"])["keys"]
            if old or not any(wanted(str(key)) for key in keys):
                file.unlink(missing_ok=True)


def packed(training: Training) -> dict[str, Tensor]:
    """The tensors of a stack as a file holds them, each [N, ...]."""
    named = {f"{part}.{name}": t for part, values in training.dump().items() for name, t in values.items()}
    named |= {"scale": training.scale, "steps": training.optimizer.steps}
    return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def unpack(training: Training, tensors: Mapping[str, Tensor], keys: list[str]) -> None:
    """Fill a stack with what `packed` gave."""
    placed = {name: tensor.to(training.scale.device) for name, tensor in tensors.items()}
    parts = {part: {n: placed[f"{part}.{n}"] for n in values} for part, values in training.dump().items()}
    training.load(parts, placed["scale"], placed["steps"], keys)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _age(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except OSError:
        return 0, file.name
