"""`dept tune`: measure the alternatives on this machine, in turns, and keep what is faster beyond doubt."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dept.adapters.stack import Tensors
from dept.backbones import tuned
from dept.backbones.backbone import Backbone, EncoderBackbone
from dept.backbones.compiled import compile_layers, parts_of, switch
from dept.backbones.cpu_linear import pack, unpacked
from dept.batches.collate import collate
from dept.batches.pack import Pack
from dept.batches.tokenise import Row
from dept.engine import forward
from dept.engine.memory import budget_by_rule, is_out_of_memory
from infra.errors import InputError
from infra.files import write_text

ROUNDS = 7
_GAIN = 0.05  # of the time; a smaller gain is not worth another setting than the rule's
_PACKED, _PLAIN = "packed weights", "plain weights"
_LENGTH, _M, _R = 32, 10, 4  # the shape of what is measured: tokens of a text, m, r


@dataclass(frozen=True)
class Measured:
    """One alternative: tokens a second, the median and the quarters of its rounds; NaN where it did not run."""

    what: str
    rate: float
    low: float
    high: float


@dataclass
class TuneReport:
    """What was measured and what is used from now on.

    Attributes:
        lines: the alternatives, those of one setting together.
        before, after: what was used until now, and what is.
        changed: one line for each setting that is another now.
        file: where it is kept; deleting it brings the rules back.
        rate: tokens a second with what is used from now on.
    """

    before: tuned.Tuned
    after: tuned.Tuned
    file: Path
    lines: list[Measured] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    rate: float = math.nan


@torch.inference_mode(False)
def tune(
    backbone: Backbone, rounds: int = ROUNDS, write: bool = True, told: Callable[[str], object] = lambda _: None
) -> TuneReport:
    """Measure token budgets, packed weights and torch.compile of a backbone on this machine, in turns.

    An alternative is taken if even its slower quarter beats the faster quarter of what the rule says, by 5 %. With any
    of these settings a trial's numbers change by rounding, so they are part of its provenance. Takes minutes.

    Args:
        rounds: measurements of each alternative.
        write: keep what was found for later runs, in $DEPT_CACHE/tuning.
        told: is given a line for each setting, with how long its rounds will take.

    Raises:
        InputError: a sharded backbone, or a cache that cannot be written.
    """
    if backbone.sharded:
        raise InputError("tune: a sharded backbone goes by the rule. Remedy: load it in one process")
    place = tuned.place(backbone.config, backbone.device)
    report = TuneReport(tuned.read(backbone.config, backbone.device), tuned.Tuned(), place)
    rule = budget_by_rule(backbone)
    budgets = [rule // 4, rule // 2, rule, rule * 2, rule * 4]
    options = {f"token budget {b}": _of_budget(backbone, b) for b in budgets if b >= 64}
    best = _choose(report, rounds, options, f"token budget {rule}", told)
    budget = int(best.rpartition(" ")[2])
    report.after = replace(report.after, token_budget=None if budget == rule else budget)
    backbone.packed = backbone.packed or pack(backbone.model)
    if backbone.packed:
        options = {what: _of_packed(backbone, budget, what == _PACKED) for what in (_PACKED, _PLAIN)}
        plain = _choose(report, rounds, options, _PACKED, told) == _PLAIN
        report.after = replace(report.after, packed=False if plain else None)
    _tune_compile(backbone, report, rounds, budget, told)
    names = {"token_budget": "token budget", "packed": "packed weights", "compiled": "torch.compile"}
    for name, said in names.items():
        old, new = getattr(report.before, name), getattr(report.after, name)
        if old != new:
            report.changed.append(f"{said}: {_said(old)} -> {_said(new)}")
    if write:
        _write(place, report, backbone.dtype)
    return report


def _said(value: object) -> str:
    return "by rule" if value is None else str(value)


def _tune_compile(
    backbone: Backbone, report: TuneReport, rounds: int, budget: int, told: Callable[[str], object]
) -> None:
    parts, was = parts_of(backbone.model), backbone.compiled
    if not compile_layers(backbone.model):
        report.lines.append(Measured("torch.compile", *[float("nan")] * 3))
        return

    def of(on: bool) -> Callable[[], float]:
        def run() -> float:
            switch(parts, on)
            return budget / seconds_of(backbone, budget)

        return run

    of(True)()  # compiles
    options = {"without torch.compile": of(False), "torch.compile": of(True)}
    found = _choose(report, rounds, options, "without torch.compile", told)
    report.after = replace(report.after, compiled=True if found == "torch.compile" else None)
    switch(parts, was)


def _of_budget(backbone: Backbone, budget: int) -> Callable[[], float]:
    return lambda: budget / seconds_of(backbone, budget)


def _of_packed(backbone: Backbone, budget: int, packed: bool) -> Callable[[], float]:
    def run() -> float:
        if packed:
            return budget / seconds_of(backbone, budget)
        with unpacked(backbone.model):
            return budget / seconds_of(backbone, budget)

    return run


def _choose(
    report: TuneReport,
    rounds: int,
    options: dict[str, Callable[[], float]],
    usual: str,
    told: Callable[[str], object],
) -> str:
    """Measure every option once a round, so that all meet the same other work of the machine; the one to use."""
    rates: dict[str, list[float]] = {what: [] for what in options}
    for number in range(rounds + 1):
        began = time.monotonic()
        for what, run in options.items():
            try:
                rate = run()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                rate = float("nan")
            if number:  # the first round pays for what is made once
                rates[what].append(rate)
        if not number:
            seconds = rounds * (time.monotonic() - began)
            told(f"{rounds} rounds of {', '.join(options)}: about {seconds:.0f} s")
    made = {what: _spread(what, found) for what, found in rates.items()}
    report.lines += made.values()
    better = [m for m in made.values() if m.low > made[usual].high * (1 + _GAIN)]
    best = max(better, key=lambda m: m.rate) if better else made[usual]
    report.rate = best.rate
    return best.what


def _spread(what: str, rates: list[float]) -> Measured:
    if any(rate != rate for rate in rates):
        return Measured(what, *[float("nan")] * 3)
    if len(rates) < 2:
        return Measured(what, *rates * 3)
    low, middle, high = statistics.quantiles(rates, n=4)
    return Measured(what, middle, low, high)


@torch.inference_mode(False)
def seconds_of(backbone: Backbone, tokens: int) -> float:
    """Time of a forward and backward pass of a micro-batch of `tokens` tokens of short texts, one adapter."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, masks = backbone.tokens.vocab, (_LENGTH - 1,) if backbone.tokens.masked else ()
    rows = [
        Row(tuple(torch.randint(vocabulary, (_LENGTH,), generator=generator).tolist()), ((1,),), 0, 0, masks=masks)
        for _ in range(max(1, tokens // _LENGTH))
    ]
    shapes = (_M, backbone.d), (_LENGTH, _R), (_R, backbone.d)
    prompt, a, b = (torch.zeros(1, *shape, device=backbone.device, requires_grad=True) for shape in shapes)
    tensors = Tensors(prompt, a, b, torch.ones(1, device=backbone.device))
    batch = collate([Pack(0, (row,), (i,)) for i, row in enumerate(rows)], backbone)
    began = time.perf_counter()
    prompts = forward.prefix(backbone, tensors)
    if isinstance(backbone, EncoderBackbone) and not backbone.fills_in:
        forward.passed(backbone, batch, tensors, prompts).last.sum().backward()
    else:
        (-forward.scores(backbone, batch, tensors, prompts).words.sum()).backward()
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _write(file: Path, report: TuneReport, dtype: torch.dtype) -> None:
    rates = {str(dtype).removeprefix("torch."): report.rate}
    try:
        write_text(file, json.dumps(tuned.body_of(report.after, rates)))
    except OSError as error:
        raise InputError(f"tune: cannot write {file} ({error}). Remedy: set DEPT_CACHE to another folder") from error
