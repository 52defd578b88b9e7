"""How fast a plan's backbone trains on this machine: remembered where it was ever measured, else a short probe."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dept.trial import STACKED
from flows.planning.backbone_cost import BackboneCost

LOOKED_AT = 40  # trials, the newest
PROBE_SECONDS = 10.0  # with loading; no further step is begun after it
PROBE_TOKENS = 256  # of a step: enough to tell hours from minutes
PROBE_BYTES = 1 << 30  # of weights: larger ones take longer to load than the probe may


class Remembers(Protocol):
    """The ledger's rows."""

    def find(
        self,
        *,
        status: str | None = None,
        limit: int | None = None,
        kind: str | None = None,
        backbone_id: str | None = None,
        newest_first: bool = False,
    ) -> Sequence[Any]:
        """Rows that match every value."""


def speed(backbone: BackboneCost, ledger: Remembers | None) -> tuple[float | None, str]:
    """Tokens a second in training, and in words where that is from; None where nothing is known.

    Trials that this machine has trained on these weights come first, then what `dept tune` measured, then a probe of at
    most `PROBE_SECONDS`, which large weights are not loaded for.
    """
    if backbone.folder is None:
        return None, "Time: not known, since the backbone is not here."
    if found := _of_trials(backbone, ledger):
        known, number = found
        return known, f"Time: at {known:,.0f} tokens a second, the speed of {number} trials trained here before."
    if kept := _of_tuning(backbone):
        return kept, f"Time: at {kept:,.0f} tokens a second, as `dept tune` measured."
    size = sum(file.stat().st_size for file in Path(backbone.files).glob("*.safetensors"))
    if not 0 < size <= PROBE_BYTES:
        return None, "Time: not known before the first trial here; `dept tune` measures it."
    rate = _probed(backbone)
    return rate, (
        f"Time: at {rate:,.0f} tokens a second, from a probe of at most {PROBE_SECONDS:.0f} s; the first trials tell "
        "better. Another load of this machine gives another time."
    )


def _of_trials(backbone: BackboneCost, ledger: Remembers | None) -> tuple[float, int] | None:
    """Speed of the newest trials that were trained here so, all together, and their number."""
    if ledger is None:
        return None
    rows = ledger.find(kind="train", status="finished", backbone_id=backbone.id, limit=LOOKED_AT, newest_first=True)
    tokens = seconds = number = 0.0
    for row in rows:
        told, outcome = row.provenance or {}, row.outcome or {}
        here = told.get("host") == socket.gethostname() and not told.get("sharded")
        device = str(told.get("device", "")).partition(":")[0]
        same = backbone.device is None or backbone.device.partition(":")[0] == device
        like = row.spec.get("dtype") == backbone.dtype and row.spec.get("method", "dept") in STACKED
        if here and same and like and outcome.get("tokens") and outcome.get("seconds"):
            tokens, seconds, number = tokens + outcome["tokens"], seconds + outcome["seconds"], number + 1
    return (tokens / seconds, int(number)) if seconds else None


def _of_tuning(backbone: BackboneCost) -> float | None:
    from infra.settings import settings

    if not (settings().cache / "tuning").is_dir():  # spares importing torch
        return None
    from transformers import AutoConfig

    from dept.backbones import tuned
    from dept.backbones.loading import pick_device

    return tuned.rate(AutoConfig.from_pretrained(backbone.files), pick_device(backbone.device), backbone.dtype)


def _probed(backbone: BackboneCost) -> float:
    """Load the weights and take steps until the time is over; the fastest after the first."""
    ends = time.monotonic() + PROBE_SECONDS
    from dept.backbones.shared import shared_backbone
    from dept.engine.tune import seconds_of

    loaded = shared_backbone(str(backbone.folder), backbone.dtype, backbone.device)
    took: list[float] = []
    while len(took) < 3 and (not took or time.monotonic() + took[-1] < ends):
        took.append(seconds_of(loaded, PROBE_TOKENS))
    return PROBE_TOKENS / min(took[1:] or took)
