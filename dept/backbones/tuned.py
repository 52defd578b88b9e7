"""What `dept tune` found on this machine, as its file says; nobody else writes one. Without a file all is by rule."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from infra.settings import settings


@dataclass(frozen=True)
class Tuned:
    """What was measured to be fastest; None where nothing was, so that the rule holds.

    Attributes:
        token_budget: padded tokens per micro-batch in training.
        packed: whether linear layers run on packed weights.
        compiled: whether torch.compile is used.
    """

    token_budget: int | None = None
    packed: bool | None = None
    compiled: bool | None = None


def read(config: Any, device: torch.device) -> Tuned:
    """What the file for a model's configuration on this device says; a damaged file says nothing."""
    try:
        body = json.loads(place(config, device).read_text(encoding="utf-8"))
        found = Tuned(**body["found"])
    except (OSError, ValueError, KeyError, TypeError):
        return Tuned()
    kinds = (found.token_budget, int), (found.packed, bool), (found.compiled, bool)
    return found if all(value is None or type(value) is kind for value, kind in kinds) else Tuned()


def rate(config: Any, device: torch.device, dtype: str) -> float | None:
    """Tokens a second in training that were measured with these settings and this number type; for estimates alone."""
    try:
        found = json.loads(place(config, device).read_text(encoding="utf-8"))["tokens_per_second"][dtype]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, float) and 0 < found < math.inf else None


def body_of(found: Tuned, rates: Mapping[str, float]) -> dict[str, Any]:
    """What the file holds. rates: number type of the weights -> tokens a second in training."""
    about = {"processor": processor(), "torch": torch.__version__}
    return {"found": asdict(found), "tokens_per_second": dict(rates), **about}


def place(config: Any, device: torch.device) -> Path:
    """The file for a model's configuration, this processor and torch version."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    shape = {key: value for key, value in json.loads(config.to_json_string()).items() if key != "_name_or_path"}
    about = [shape, str(device.type), where, torch.get_num_threads(), torch.__version__]
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    return settings().cache / "tuning" / f"{name}.tuned.json"


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
