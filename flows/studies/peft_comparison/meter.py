"""Memory of a run, bytes above what was taken at its start: of the CUDA device's allocator, elsewhere of this process.

Source: https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/run.py and, beside it, utils.py.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import psutil
import torch


@dataclass
class Meter:
    """Looks after every step.

    Attributes:
        allocated, reserved: bytes after each step.
    """

    device: torch.device
    allocated: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    _start: int = 0
    _most: int = 0

    def __post_init__(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.max_memory_reserved(self.device)
        else:
            self._start = psutil.Process().memory_info().rss

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def accelerator(self) -> str:
        """Name of the device."""
        return torch.cuda.get_device_name(self.device) if self._cuda else self.device.type

    def look(self) -> None:
        """Note what is held now."""
        if self._cuda:
            held = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        else:
            held = (psutil.Process().memory_info().rss,) * 2
        self._most = max(self._most, held[1])
        self.allocated.append(held[0] - self._start)
        self.reserved.append(held[1] - self._start)

    def empty_cache(self) -> None:
        """Give back what the allocator keeps, as the benchmark does now and then."""
        if self._cuda:
            torch.cuda.empty_cache()

    def summary(self) -> dict[str, int]:
        """Mean, largest and 99th percentile of what was reserved, in the benchmark's words."""
        most = torch.cuda.max_memory_reserved(self.device) if self._cuda else self._most
        cuts = (
            statistics.quantiles(self.reserved, n=100, method="inclusive") if len(self.reserved) > 1 else self.reserved
        )
        return {
            "accelerator_memory_reserved_avg": int(statistics.fmean(self.reserved)),
            "accelerator_memory_max": most - self._start,
            "accelerator_memory_reserved_99th": int(cuts[-1]),
        }
