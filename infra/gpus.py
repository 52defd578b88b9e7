"""Names of NVIDIA GPUs: CUDA_VISIBLE_DEVICES takes numbers and uuids, whole or their beginnings; a card has one name.

https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables
"""

from __future__ import annotations

import re
from pathlib import Path

_CARDS = Path("/proc/driver/nvidia/gpus")  # a folder a card, by its PCI address


def listed(text: str) -> list[str]:
    """The devices that CUDA sees by such a list, each once: the first invalid number ends it, as it does for CUDA."""
    found: dict[str, str] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name.startswith("-"):
            break
        found.setdefault(card(name), str(int(name)) if name.isdecimal() else name)
    return list(found.values())


def card(name: str) -> str:
    """The one name of a card: its uuid where the driver tells it, else the name itself."""
    uuids = _uuids()
    if name.isdecimal():
        return uuids[int(name)] if int(name) < len(uuids) else str(int(name))
    meant = [uuid for uuid in uuids if uuid.lower().startswith(name.lower())]
    return meant[0] if len(meant) == 1 else name


def _uuids() -> list[str]:
    """Of the cards in the order of their PCI addresses, which CUDA_DEVICE_ORDER=PCI_BUS_ID makes CUDA's own."""
    found = []
    for file in sorted(_CARDS.glob("*/information")):
        try:
            told = re.search(r"GPU UUID:\s*(GPU-\S+)", file.read_text(encoding="utf-8"))
        except OSError:
            told = None
        if told is None:  # one is not told, so no number can be trusted
            return []
        found.append(told[1])
    return found
