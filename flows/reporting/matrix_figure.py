"""The transfer matrix as a heat map: every source against every target, few-shot beside zero-shot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dept.trial import TrialOutcome
from flows.reporting.palette import Theme
from flows.reporting.plot import Plot, both_themes
from flows.reporting.shots import in_order, k_of
from flows.reporting.summary import distinct, score_of, zero_shot
from infra.errors import InputError

Pair = tuple[str, str]  # source, target
COLOURS = matplotlib.colormaps["cividis"]  # even in brightness, and the same to those who see no red or green


@dataclass(frozen=True)
class Panel:
    """One heat map. Percent and points; keys are (source, target).

    Attributes:
        shots: k; None for all training rows, and for zero-shot.
        untrained: zero-shot: the sources' adapters as they are.
        scores: mean test score over seeds.
        gains: mean over seeds of the points over scratch on the same shots; zero-shot: over the untrained adapter.
    """

    shots: int | None
    scores: dict[Pair, float]
    gains: dict[Pair, float]
    untrained: bool = False

    @property
    def title(self) -> str:
        """What the panel shows and what its gains are over."""
        return "zero-shot (gain over untrained)" if self.untrained else f"k = {k_of(self.shots)} (gain over scratch)"


def matrix_panels(outcomes: Sequence[TrialOutcome]) -> list[Panel]:
    """The numbers of the matrix: a panel per k, then zero-shot.

    Takes tested trials of variant `source:NAME`, those of scratch and of the untrained adapter; others are left alone.
    Seeds are paired; one untrained trial stands for every seed.
    """
    tested = [o for o in distinct(outcomes) if o.test and o.spec.role == "target" and o.spec.method == "dept"]
    scratch = {(o.spec.task, o.spec.shots, o.spec.seed): score_of(o.test) for o in tested if o.spec.init == "scratch"}
    untrained: dict[str, list[float]] = {}
    for outcome in tested:
        if outcome.spec.init == "untrained":
            untrained.setdefault(outcome.spec.task, []).append(score_of(outcome.test))
    found: dict[tuple[bool, int | None], tuple[dict[Pair, list[float]], dict[Pair, list[float]]]] = {}
    for outcome in tested:
        spec = outcome.spec
        if spec.init != "source" or spec.source_task is None:
            continue
        free = zero_shot(outcome)
        scores, gains = found.setdefault((free, None if free else spec.shots), ({}, {}))
        pair = (spec.source_task, spec.task)
        score = score_of(outcome.test)
        scores.setdefault(pair, []).append(score)
        if free:
            base = statistics.fmean(untrained[spec.task]) if spec.task in untrained else None
        else:
            base = scratch.get((spec.task, spec.shots, spec.seed))
        if base is not None:
            gains.setdefault(pair, []).append(score - base)
    order = [*((False, k) for k in in_order(k for free, k in found if not free)), (True, None)]
    return [
        Panel(k, _means(found[free, k][0]), _means(found[free, k][1]), free) for free, k in order if (free, k) in found
    ]


def matrix_plot(outcomes: Sequence[TrialOutcome]) -> Plot:
    """The heat maps in both themes; rows are sources, columns targets.

    Raises:
        InputError: no tested trial starts from a named source.
    """
    panels = matrix_panels(outcomes)
    if not panels:
        raise InputError("transfer matrix: no tested trial starts from a source. Remedy: strategies [source:NAME, ...]")
    sources, targets = (list(dict.fromkeys(pair[side] for p in panels for pair in p.scores)) for side in (0, 1))
    said = "; ".join(
        f"{panel.title}: "
        + ", ".join(f"{s} to {t} {panel.scores[s, t]:.1f}{_points(panel, (s, t))}" for s, t in panel.scores)
        for panel in panels
    )
    return both_themes(
        "matrix",
        "Transfer matrix",
        f"Heat map of test scores, sources by targets. {said}.",
        lambda theme: _draw(panels, sources, targets, theme),
    )


def _draw(panels: Sequence[Panel], sources: Sequence[str], targets: Sequence[str], theme: Theme) -> Figure:
    wide = max(3.4, 1.15 * len(targets) + 0.4)
    size = (1.6 + wide * len(panels), 1.6 + 0.72 * len(sources))
    figure = Figure(figsize=size, layout="constrained")
    every = [score for panel in panels for score in panel.scores.values()]
    low, high = min(every), max(every)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _heat(axis, panel, sources, targets, (low, high if high > low else low + 1), theme)
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.8, pad=0.02)
    bar.set_label("test score, %")
    bar.outline.set_visible(False)
    axes[0].set_ylabel("source")
    return figure


def _heat(
    axis: Axes,
    panel: Panel,
    sources: Sequence[str],
    targets: Sequence[str],
    limits: tuple[float, float],
    theme: Theme,
) -> None:
    table = [[panel.scores.get((s, t), float("nan")) for t in targets] for s in sources]
    axis.imshow(table, cmap=COLOURS, vmin=limits[0], vmax=limits[1], aspect="auto")
    for row, source in enumerate(sources):
        for column, target in enumerate(targets):
            score = panel.scores.get((source, target))
            if score is None:
                axis.text(column, row, "–", ha="center", va="center", color=theme.muted)
                continue
            share = (score - limits[0]) / (limits[1] - limits[0])
            ink = "#000000" if share > 0.45 else "#ffffff"  # cividis runs from dark blue to bright yellow
            text = f"{score:.1f}{_points(panel, (source, target))}".replace(" (", "\n(")
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    axis.set_xticks(range(len(targets)), list(targets), rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(sources)), list(sources))
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.grid(False)
    axis.set_title(panel.title)


def _points(panel: Panel, pair: Pair) -> str:
    return f" ({panel.gains[pair]:+.1f})" if pair in panel.gains else ""


def _means(found: dict[Pair, list[float]]) -> dict[Pair, float]:
    return {pair: statistics.fmean(values) for pair, values in found.items()}
