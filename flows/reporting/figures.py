"""Plots of the report: matplotlib without a screen, one palette for bright and one for dark pages."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from flows.reporting.summary import TRANSFER, Cell, Row, measure_name, rank, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dept.trial import TrialOutcome

INCHES_PER_ROW = 13.2
LEGEND_COLUMNS = 5
PANELS_PER_ROW = 2
DPI = 144
WIDTH = 9.6  # inches; the page shows 96 points an inch
SEEDS_TOLD_APART = 3
DASHES = ("-", "--", ":")


# Hues of Okabe and Ito and of Paul Tol, which the colour-blind tell apart; rivals are hatched besides.
BRIGHT = {
    "untrained": "#a9b1bd",
    "in-context": "#5f6b7a",
    "scratch": "#e08a1e",
    "best-source": "#63b3e6",
    "similar": "#14907a",
    "mixture": "#cc79a7",
    "multitask": "#882255",
    "prompt-only": "#9a9330",
    "transfer": "#1f5fbf",
    "prompt-tuning": "#d9c25a",
    "lora": "#cc6677",
    "full": "#332288",
}
DIM = BRIGHT | {
    "untrained": "#6d7785",
    "in-context": "#a3adba",
    "scratch": "#f0a94a",
    "best-source": "#8ecdf2",
    "similar": "#3fbfa5",
    "multitask": "#c04b86",
    "transfer": "#5c9bf5",
    "full": "#9184e0",
}
SOURCES = ("#4f9d3a", "#a0603c", "#7f6fd6", "#c0566a", "#58a5a0", "#b39b2e")  # source:NAME, by its place among them
HATCHES = {"in-context": "..", "prompt-tuning": "///", "lora": "\\\\\\", "full": "xxx"}


@dataclass(frozen=True)
class Theme:
    """Colours of one page theme; the variants differ in brightness too, for those who see no hue."""

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    variants: Mapping[str, str]

    def of(self, variant: str, among: Sequence[str] = ()) -> str:
        """Colour of a variant; a named source takes its own by its place among the variants shown."""
        if variant in self.variants:
            return self.variants[variant]
        named = [name for name in among if name not in self.variants]
        return SOURCES[named.index(variant) % len(SOURCES)] if variant in named else self.muted


LIGHT = Theme("light", "#ffffff", "#1c2430", "#5b6675", "#e3e7ed", BRIGHT)
DARK = Theme("dark", "#161b22", "#e8ecf1", "#a3adba", "#2d3540", DIM)
THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class Plot:
    """One figure in both themes, as PNG bytes, with the sentence that replaces it for those who cannot see it."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page; the pixels are half as many again, for fine screens."""
        width, height = struct.unpack(">II", self.light[16:24])  # PNG header
        return width * 96 // DPI, height * 96 // DPI


def plots(rows: Sequence[Row], outcomes: Sequence[TrialOutcome]) -> list[Plot]:
    """Every plot that the outcomes have numbers for; trials of a learning-rate search are left out."""
    made = []
    if rows:
        variants, what = shown(rows), measure_name(rows)
        said = "; ".join(
            f"{row.target} k={row.shots}: "
            + ", ".join(f"{variant} {row.cells[variant].text}" for variant in variants if variant in row.cells)
            for row in rows
        )
        made.append(
            both_themes(
                "accuracy",
                f"Test {what} by target and variant",
                f"Bar chart of test {what}. {said}.",
                lambda theme: _bars(rows, theme),
            )
        )
    for name, title, attribute, unit in (
        ("loss", "Training loss", "loss_curve", "loss, nats per token"),
        ("validation", "Validation score", "validation_curve", "score, %"),
    ):
        drawn = [outcome for outcome in outcomes if outcome.spec.role != "search" and getattr(outcome, attribute)]
        if drawn:
            ends = "; ".join(
                f"{outcome.spec.label} from {getattr(outcome, attribute)[0][1]:.3g} to "
                f"{getattr(outcome, attribute)[-1][1]:.3g}"
                for outcome in drawn[:20]
            )
            made.append(
                both_themes(
                    name,
                    title,
                    f"Line chart, {unit} by optimizer step. {ends}.",
                    lambda theme, drawn=drawn, attribute=attribute, unit=unit: _curves(drawn, attribute, unit, theme),
                )
            )
    return made


def both_themes(name: str, title: str, alt: str, draw: Callable[..., Figure]) -> Plot:
    """Draw a figure in both themes; `draw` takes the theme."""
    return Plot(name, title, alt, *(png(draw, theme) for theme in THEMES))


def png(draw: Callable[..., Figure], theme: Theme) -> bytes:
    """A figure drawn in one theme, as a PNG file."""
    buffer = io.BytesIO()
    with _style(theme):
        draw(theme).savefig(buffer, format="png", dpi=DPI, facecolor=theme.background, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    with matplotlib.rc_context(
        {
            "figure.facecolor": theme.background,
            "axes.facecolor": theme.background,
            "text.color": theme.ink,
            "axes.edgecolor": theme.grid,
            "axes.labelcolor": theme.muted,
            "xtick.color": theme.ink,
            "ytick.color": theme.muted,
            "grid.color": theme.grid,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "xtick.bottom": False,
            "ytick.left": False,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "hatch.color": theme.background,
            "hatch.linewidth": 0.8,
            "lines.linewidth": 1.8,
        }
    ):
        yield


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
        panel.set_xticks(range(len(line)), [f"{row.target}\nk = {row.shots}" for row in line])
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
    panel.annotate(
        f"{cell.mean:.1f}",
        (x, max(top, 0)),
        (0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        fontweight="bold",
        color=theme.ink,
    )


def _curves(outcomes: Sequence[TrialOutcome], attribute: str, unit: str, theme: Theme) -> Figure:
    panels: dict[str, list[TrialOutcome]] = {}
    for outcome in outcomes:
        spec = outcome.spec
        panels.setdefault(f"{spec.task}, " + ("source" if spec.shots is None else f"k = {spec.shots}"), []).append(
            outcome
        )
    count = -(-len(panels) // PANELS_PER_ROW)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.7 * count), layout="constrained")
    axes = list(figure.subplots(count, PANELS_PER_ROW, squeeze=False).flat)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    labelled: dict[tuple[tuple[int, str], int, str], Any] = {}
    targets = [outcome.spec for outcome in outcomes if outcome.spec.role != "source"]
    strategies = {spec.variant for spec in targets if spec.transfers}
    names = {v: TRANSFER if {v} == strategies else v for v in sorted({spec.variant for spec in targets}, key=rank)}
    for axis, (title, members) in zip(axes, panels.items(), strict=False):
        _panel(axis, members, attribute, theme, names, labelled)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
    keys = sorted(labelled)
    figure.legend(
        [labelled[key] for key in keys],
        [key[-1] for key in keys],
        loc="outside upper left",
        ncols=min(LEGEND_COLUMNS, len(keys)),
    )
    return figure


def _panel(
    axis: Axes,
    members: Sequence[TrialOutcome],
    attribute: str,
    theme: Theme,
    names: Mapping[str, str],
    labelled: dict[tuple[tuple[int, str], int, str], Any],
) -> None:
    """One axis; `labelled` gathers a line for each legend entry, keyed in the order of the legend."""
    seeds = sorted({outcome.spec.seed for outcome in members})
    apart = len(seeds) <= SEEDS_TOLD_APART
    for outcome in members:
        steps, values = zip(*getattr(outcome, attribute), strict=True)
        variant = names.get(outcome.spec.variant, outcome.spec.variant)
        source = outcome.spec.role == "source"
        order = seeds.index(outcome.spec.seed) if apart else 0
        (line,) = axis.plot(
            steps,
            values,
            color=theme.muted if source else theme.of(variant, list(names)),
            linestyle=DASHES[order],
            marker="o" if len(steps) < 12 else None,
            markersize=3.5,
        )
        if source:
            labelled.setdefault(((-1, ""), 0, "source"), line)
        else:
            seed = f"seed {outcome.spec.seed}" if apart else f"{len(seeds)} seeds"
            labelled.setdefault((rank(variant), order, f"{variant}, {seed}"), line)
        if attribute == "validation_curve" and outcome.best_step in steps:  # the step whose adapter was kept
            axis.plot(
                outcome.best_step,
                values[steps.index(outcome.best_step)],
                "o",
                markersize=8,
                fillstyle="none",
                color=line.get_color(),
            )
