"""What is measured once per machine and backbone, and then remembered: a run's bits must not hang on a clock.

The figures lie in the user's cache ($DEPT_CACHE), one JSON file per backbone architecture, device and torch version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch
from filelock import FileLock
from torch import nn

from dept.backbones.wheel import cache_root
from dept.batches.batching import Pack, Row, collate
from dept.engine import forward as stack

if TYPE_CHECKING:
    from dept.backbones.backbone import Backbone

T = TypeVar("T")
SMALLEST, LARGEST = 128, 2**17  # padded tokens per micro-batch
_GAIN = 1.1  # a budget twice as large has to train this much faster
_COMPILE_TOKENS = 512
_LENGTH, _M, _R = 32, 10, 4  # the shape of what is measured: tokens of a text, m, r


def remembered(config: Any, device: torch.device, name: str, measure: Callable[[], Any]) -> Any:
    """The figure `name` of a backbone on this machine; `measure` is called where it is not known yet.

    A cache that cannot be written or read costs a measurement, nothing else.
    """
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    about = [config.to_json_string(), str(device.type), place, torch.get_num_threads(), torch.__version__]
    file = cache_root().parent / "tuning" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            known = _read(file)
            if name not in known:
                known[name] = measure()
                _write(file, known)
            return known[name]
    except OSError:
        return measure()


def token_budget(backbone: Backbone) -> int:
    """Padded tokens per micro-batch: doubled for as long as training gets faster by it and memory is there.

    Backbones whose weights are spread over processes keep a fixed budget, since all ranks must cut alike.
    """
    if backbone.sharded:
        return 16384 if backbone.device.type == "cuda" else 512
    found: int = remembered(backbone.config, backbone.device, f"budget {backbone.dtype}", lambda: grow(backbone))
    return found


@torch.inference_mode(False)
def grow(backbone: Backbone) -> int:
    """Measure training steps of growing micro-batches; returns the last budget that was worth its doubling."""
    best, rate, budget = SMALLEST, 0.0, SMALLEST
    seconds_of(backbone, budget)  # the first step pays for what is made once
    while budget <= LARGEST:
        before = _peak_bytes(backbone.device)
        try:
            faster = budget / seconds_of(backbone, budget)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if faster < rate * _GAIN:
            break
        best, rate = budget, faster
        grown = _peak_bytes(backbone.device) - before
        if backbone.device.type == "cpu" and 4 * grown > psutil.virtual_memory().available:
            break  # the next step would need about twice as much; a CPU that runs out kills the process
        budget *= 2
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()
    return best


def seconds_of(backbone: Backbone, tokens: int) -> float:
    """Time of a forward and backward pass of a micro-batch of `tokens` tokens of short texts, one adapter."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = backbone.model.get_input_embeddings().num_embeddings
    rows = [
        Row(tuple(torch.randint(vocabulary, (_LENGTH,), generator=generator).tolist()), ((1,),), 0, 0)
        for _ in range(max(1, tokens // _LENGTH))
    ]
    prompt, a, b = (torch.zeros(1, *shape, device=backbone.device, requires_grad=True) for shape in _shapes(backbone.d))
    tensors = stack.Tensors(prompt, a, b, torch.ones(1, device=backbone.device))
    batch = collate([Pack(0, (row,), (i,)) for i, row in enumerate(rows)], backbone)
    times: list[float] = []
    while not times or (len(times) < 3 and sum(times) < 1):
        began = time.perf_counter()
        prompts = stack.prefix(backbone, tensors)
        (-stack.log_probs(backbone, batch, tensors, prompts).sum()).backward()  # type: ignore[no-untyped-call]
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def compile_where_faster(backbone: Backbone) -> bool:
    """torch.compile for the backbone's normalisation layers (and feed-forward blocks, where torch can trace them).

    The layers around the key-value cache would be compiled anew for every length. Costs a compilation of up to a minute
    and two measurements, once per machine; where it is not faster by 3 % or cannot compile, all stays as it was.

    Returns:
        Whether compiled code is in use.
    """
    packed = any(type(module).__name__ == "PackedLinear" for module in backbone.modules())
    endings = ("Norm",) if packed else ("Norm", "MLP", "FF")
    parts = [m for m in backbone.modules() if type(m).__name__.endswith(endings)]

    def measure() -> bool:
        try:
            _switch(parts, True)
            seconds_of(backbone, _COMPILE_TOKENS)  # compiles
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(3):  # in turn, so that both meet the same other work of the machine
                for on, found in times.items():
                    _switch(parts, on)
                    found.append(seconds_of(backbone, _COMPILE_TOKENS))
        except Exception:  # whatever a compiler may raise on this machine
            return False
        return statistics.median(times[True]) < 0.97 * statistics.median(times[False])

    faster: bool = remembered(backbone.config, backbone.device, f"compiled {backbone.dtype}", measure)
    _switch(parts, faster)
    return faster


def _switch(parts: Sequence[nn.Module], on: bool) -> None:
    for part in parts:
        if on:
            part.compile(dynamic=True)
        else:
            part._compiled_call_impl = None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of this machine (torch says the latter in a plain RuntimeError)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def within_memory(backbone: Backbone, attempt: Callable[[int], T], budget: int, smallest: int) -> tuple[T, int]:
    """`attempt(budget)`, again with half the budget for as long as memory runs out.

    Not for a sharded backbone: a rank that cut its rows otherwise than the others would wait for them for ever.

    Args:
        attempt: called again after a failure, so it must cope with what it left half done.
        smallest: tokens of the longest row, below which nothing is gained.

    Returns:
        What `attempt` gave, and the budget it was given.
    """
    while True:
        try:
            return attempt(budget), budget
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or budget <= smallest or backbone.sharded:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget //= 2


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB; on CUDA the largest allocation."""
    return _peak_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu")) / 2**20


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def _shapes(d: int) -> tuple[tuple[int, int], ...]:
    return (_M, d), (_LENGTH, _R), (_R, d)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, known: dict[str, Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "w") as stream:
        json.dump(known, stream)
    Path(temporary).replace(file)
