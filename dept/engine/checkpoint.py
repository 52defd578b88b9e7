"""A stack on disk: written whole or not at all, so that a killed run goes on from its last save."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from dept.engine.forward import Training
    from dept.engine.train import State

FILE = "stack.safetensors"


def save(folder: Path, training: Training, states: Mapping[str, State]) -> None:
    """Write the stack's tensors and the trials' states into one file, synced and renamed.

    Raises:
        OSError: the disk is full; the former checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{name}": value.cpu().contiguous()
        for part, values in training.dump().items()
        for name, value in values.items()
    }
    tensors |= {"scale": training.scale.cpu(), "steps": training.optimizer.steps.cpu()}
    temporary = folder / f"{FILE}.{os.getpid()}"
    body = {"keys": training.keys, "states": {key: asdict(state) for key, state in states.items()}}
    save_file(tensors, temporary, metadata={"state": json.dumps(body)})
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(folder / FILE)


def restore(folder: Path, training: Training, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Fill an empty stack from the last save, with those of its trials that are wanted; key -> state.

    A checkpoint that is missing, damaged or of another width is no loss but time: the trials start anew.
    """
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            body = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    device = training.scale.device
    state = {
        part: {name: tensors[f"{part}.{name}"].to(device) for name in values}
        for part, values in training.dump().items()
    }
    if any(state[part][n].shape[1:] != t.shape[1:] for part, old in training.dump().items() for n, t in old.items()):
        return {}
    training.load(state, tensors["scale"].to(device), tensors["steps"].to(device), list(body["keys"]))
    for key in body["keys"]:
        if key not in wanted:
            training.leave(key)
    return {key: body["states"][key] for key in training.keys}


def clear(folder: Path | None) -> None:
    """Remove a checkpoint whose trials are all done."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
