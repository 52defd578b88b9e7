"""The first plot of a report: test scores by target and variant, or their spread over many targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from flows.reporting.palette import HATCHES, Theme
from flows.reporting.plot import LEGEND_COLUMNS, Plot, both_themes
from flows.reporting.shots import in_order, k_of
from flows.reporting.summary import Cell, Row, measure_name, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES_PER_ROW = 13.2
MOST_GROUPS = 24  # targets and k that have bars of their own; more are told by their spread
MOST_K = 8


def bar_plot(rows: Sequence[Row]) -> Plot:
    """Bars for each target and k; above `MOST_GROUPS` of them a bar per variant and k with the spread over targets."""
    if len(rows) > MOST_GROUPS:
        return _overview_plot(rows)
    variants, what = shown(rows), measure_name(rows)
    said = "; ".join(
        f"{row.target} k={row.k}: "
        + ", ".join(f"{variant} {row.cells[variant].text}" for variant in variants if variant in row.cells)
        for row in rows
    )
    return both_themes(
        "accuracy",
        f"Test {what} by target and variant",
        f"Bar chart of test {what}. {said}.",
        lambda theme: _bars(rows, theme),
        "Bars: mean over seeds. Error bars: sample standard deviation. Dots: single seeds.",
    )


def _overview_plot(rows: Sequence[Row]) -> Plot:
    what, every = measure_name(rows), in_order(row.shots for row in rows)
    shots = every[:MOST_K]
    found: dict[int | None, dict[str, list[float]]] = {}
    for k in shots:
        here = [row for row in rows if row.shots == k]
        cells = {v: [row.cells[v].mean for row in here if v in row.cells] for v in shown(rows)}
        found[k] = {variant: values for variant, values in cells.items() if values}
    said = "; ".join(
        f"k={k_of(k)}: " + ", ".join(f"{v} {statistics.fmean(values):.1f}" for v, values in found[k].items())
        for k in shots
    )
    targets = len({row.target for row in rows})
    left = f" Not drawn: k above {shots[-1]}." if len(every) > MOST_K else ""
    return both_themes(
        "accuracy",
        f"Test {what} over {targets} targets",
        f"Bar chart of mean test {what} over targets. {said}.",
        lambda theme: _overview(found, what, theme),
        "Bars: mean over targets, each the mean over its seeds. Lines: the middle 80 % of targets. Too many for bars "
        f"of their own; the table above and report.json hold each.{left}",
    )


def _overview(found: dict[int | None, dict[str, list[float]]], what: str, theme: Theme) -> Figure:
    variants = list(dict.fromkeys(variant for cells in found.values() for variant in cells))
    figure = Figure(figsize=(max(6.0, min(13.0, 1.0 + len(found) * (0.42 * len(variants) + 0.4))), 3.9))
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    width = 0.84 / len(variants)
    legend: dict[str, Any] = {}
    for place, cells in enumerate(found.values()):
        for variant, values in cells.items():
            x = place + (variants.index(variant) - (len(variants) - 1) / 2) * width
            mean, ordered = statistics.fmean(values), sorted(values)
            colour = theme.of(variant, variants)
            bar = panel.bar([x], [mean], width * 0.9, color=colour, hatch=HATCHES.get(variant))
            legend.setdefault(variant, bar)
            low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.9))
            panel.plot([x, x], [low, high], color=theme.ink, linewidth=1.2)
            _number(panel, x, max(high, mean, 0), mean, theme)
    lowest = min(min(values) for cells in found.values() for values in cells.values())
    panel.set_xticks(range(len(found)), [f"k = {k_of(k)}" for k in found])
    panel.set_ylim(min(0, int(lowest // 10 * 10)), 108)
    panel.set_ylabel(f"test {what}, %")
    figure.legend(list(legend.values()), list(legend), loc="outside upper left", ncols=LEGEND_COLUMNS)
    return figure


def _bars(rows: Sequence[Row], theme: Theme) -> Figure:
    variants = shown(rows)
    inches = max(2.2, 0.4 * len(variants) + 0.4)  # a group's; the number above each bar needs that much
    per_line = max(1, int(INCHES_PER_ROW / inches))
    lines = [rows[start : start + per_line] for start in range(0, len(rows), per_line)]
    widest = max(len(line) for line in lines)
    entries = -(-len(variants) // LEGEND_COLUMNS)
    size = (max(6.0, 1.0 + inches * widest), 0.1 + 0.2 * entries + 3.4 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    width = min(0.84 / len(variants), 0.3)
    values = [
        value for row in rows for variant in variants if variant in row.cells for value in row.cells[variant].scores
    ]
    floor = min(0, *(int(value // 10 * 10) for value in values))  # correlations may be negative
    legend: dict[str, Any] = {}
    for panel, line in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        for order, variant in enumerate(variants):
            cells = [
                (place + (order - (len(variants) - 1) / 2) * width, row.cells[variant])
                for place, row in enumerate(line)
                if variant in row.cells
            ]
            if cells:
                bars = panel.bar(
                    [x for x, _ in cells],
                    [cell.mean for _, cell in cells],
                    width * 0.9,
                    color=theme.of(variant, variants),
                    hatch=HATCHES.get(variant),
                )
                legend.setdefault(variant, bars)
            for x, cell in cells:
                _spread(panel, x, cell, width, theme)
        panel.set_xticks(range(len(line)), [f"{row.target}\nk = {row.k}" for row in line])
        panel.set_xlim(-0.6, max(widest, 2) - 0.4)
        panel.set_ylim(floor, 108)
        panel.set_yticks(range(-(-floor // 20) * 20, 101, 20))
        panel.set_ylabel(f"test {measure_name(rows)}, %")
    names = [variant for variant in variants if variant in legend]
    figure.legend([legend[name] for name in names], names, loc="outside upper left", ncols=LEGEND_COLUMNS)
    return figure


def _spread(panel: Axes, x: float, cell: Cell, width: float, theme: Theme) -> None:
    """Error bar, dots of single seeds and the mean as a number, above one bar."""
    top = cell.mean
    if cell.std is not None:
        panel.errorbar(x, cell.mean, cell.std, color=theme.ink, capsize=4, linewidth=1.2)
        top = max(top + cell.std, *cell.scores)
        panel.scatter(
            [x + width * 0.4 * (i / (cell.n - 1) - 0.5) for i in range(cell.n)],
            cell.scores,
            s=20,
            color=theme.background,
            edgecolors=theme.ink,
            linewidths=0.9,
            zorder=3,
        )
    _number(panel, x, max(top, 0), cell.mean, theme)


def _number(panel: Axes, x: float, top: float, value: float, theme: Theme) -> None:
    panel.annotate(
        f"{value:.1f}",
        (x, top),
        (0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        fontweight="bold",
        color=theme.ink,
    )
