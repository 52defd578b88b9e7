"""The answer of a run: one sentence and what stands behind it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dept.trial import AUTO
from flows.reporting.summary import Row, measure_name, shown
from flows.reporting.variants import TRANSFER, is_strategy
from flows.reporting.words import count, seeds_told, shots_told


@dataclass(frozen=True)
class Headline:
    """The answer of the run: one sentence, what stands behind it, and the mean gain in points."""

    text: str
    detail: str
    gain: float | None


def headline(rows: Sequence[Row]) -> Headline:
    """What transfer was worth: mean over seeds, then over k, then over targets, each counting the same."""
    beside = _against_prompt_tuning(rows)
    paired = [row for row in rows if row.gains]
    if not paired and (of_auto := [row for row in rows if AUTO in row.cells]):
        return _of_auto(of_auto)
    if not paired:
        return Headline(
            "No answer yet: no target has both a scratch and a transfer trial on the same shots.",
            f"Put both into the plan's strategies to compare them.{beside}",
            None,
        )
    by_target = _by_target(paired, TRANSFER, "scratch")
    gain = statistics.fmean(by_target.values())
    single = [value for row in paired for value in row.gains]
    over = f"on average over {count(len(by_target), 'target')} ({shots_told(paired)}, {seeds_told(paired)})"
    what = f"test {measure_name(paired)}"
    if abs(gain) < 0.05:
        text = f"Transfer made no difference to {what} {over}."
    elif gain > 0:
        text = f"Transfer was worth {gain:+.1f} points of {what} {over}."
    else:
        text = f"Transfer lost {-gain:.1f} points of {what} against scratch {over}."
    ahead = sum(mean > 0 for mean in by_target.values())
    detail = f"Ahead of scratch on {ahead} of {count(len(by_target), 'target')}."
    if len(single) > 1:
        detail += (
            f" Trained on the same shots, a single pair of trials differs by {min(single):+.1f} "
            f"to {max(single):+.1f} points."
        )
    if TRANSFER in (variants := shown(rows)) and any(is_strategy(variant) for variant in variants):
        detail += " Transfer is, for each seed, the strategy with the lowest validation loss."
    return Headline(text, detail + beside, gain)


def _of_auto(rows: Sequence[Row]) -> Headline:
    """What `auto` reached, beside whatever else was tested on the same rows."""
    shared = [variant for variant in shown(rows) if all(variant in row.cells for row in rows)]
    alike = [(row, even) for row in rows if (even := row.even(shared))]
    if not alike:  # each failed on other draws: there is nothing to compare
        shared, alike = [AUTO], [(row, row.even([AUTO])) for row in rows]
    mean = {variant: statistics.fmean(even[variant] for _, even in alike) for variant in shared}
    targets = count(len({row.target for row, _ in alike}), "target")
    text = f"auto reached {mean[AUTO]:.1f} % test {measure_name(rows)} on average over {targets} ({shots_told(rows)})."
    beside = ", ".join(f"{variant} {value:.1f}" for variant, value in mean.items() if variant != AUTO)
    return Headline(text, f"On the same rows: {beside}." if beside else "", None)


def _by_target(rows: Iterable[Row], variant: str, over: str) -> dict[str, float]:
    """Points per target: mean over seeds, then over k."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if gains := row.gains_of(variant, over):
            found.setdefault(row.target, []).append(statistics.fmean(gains))
    return {target: statistics.fmean(values) for target, values in found.items()}


def _against_prompt_tuning(rows: Sequence[Row]) -> str:
    gains = _by_target(rows, "scratch", "prompt-tuning")
    if not gains:
        return ""
    mean = statistics.fmean(gains.values())
    said = f"{abs(mean):.1f} points {'ahead of' if mean > 0 else 'behind'}" if abs(mean) >= 0.05 else "level with"
    return f" Both from scratch, DePT is {said} prompt-tuning on average over {count(len(gains), 'target')}."
