"""Plots of the report: matplotlib without a screen, one palette for bright and one for dark pages."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dept.trial import TrialOutcome
    from flows.summary import Row

INITS = ("untrained", "scratch", "transfer")
GROUPS_PER_ROW = 6
PANELS_PER_ROW = 2
DPI = 144
WIDTH = 9.6  # inches; the page shows 96 points an inch
SEEDS_TOLD_APART = 3
DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class Theme:
    """Colours of one page theme; the three starts differ in brightness too, for those who see no hue."""

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    untrained: str
    scratch: str
    transfer: str

    def of(self, init: str) -> str:
        """Colour of a start."""
        return str(getattr(self, init))


LIGHT = Theme("light", "#ffffff", "#1c2430", "#5b6675", "#e3e7ed", "#a9b1bd", "#e08a1e", "#1f5fbf")
DARK = Theme("dark", "#161b22", "#e8ecf1", "#a3adba", "#2d3540", "#6d7785", "#f0a94a", "#5c9bf5")
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
    """Every plot that the outcomes have numbers for."""
    made = []
    if rows:
        said = "; ".join(
            f"{row.target} k={row.shots}: "
            + ", ".join(f"{init} {row.cells[init].accuracy_text}" for init in INITS if init in row.cells)
            for row in rows
        )
        made.append(
            _both(
                "accuracy",
                "Test accuracy by target and start",
                f"Bar chart of test accuracy. {said}.",
                lambda theme: _bars(rows, theme),
            )
        )
    for name, title, attribute, unit in (
        ("loss", "Training loss", "loss_curve", "loss, nats per token"),
        ("validation", "Validation accuracy", "validation_curve", "accuracy, %"),
    ):
        drawn = [outcome for outcome in outcomes if getattr(outcome, attribute)]
        if drawn:
            ends = "; ".join(
                f"{outcome.spec.label} from {getattr(outcome, attribute)[0][1]:.3g} to "
                f"{getattr(outcome, attribute)[-1][1]:.3g}"
                for outcome in drawn[:20]
            )
            made.append(
                _both(
                    name,
                    title,
                    f"Line chart, {unit} by optimizer step. {ends}.",
                    lambda theme, drawn=drawn, attribute=attribute, unit=unit: _curves(drawn, attribute, unit, theme),
                )
            )
    return made


def _both(name: str, title: str, alt: str, draw: Any) -> Plot:
    images = []
    for theme in THEMES:
        with _style(theme):
            buffer = io.BytesIO()
            draw(theme).savefig(buffer, format="png", dpi=DPI, facecolor=theme.background, metadata={"Software": None})
            images.append(buffer.getvalue())
    return Plot(name, title, alt, *images)


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
            "lines.linewidth": 1.8,
        }
    ):
        yield


def _bars(rows: Sequence[Row], theme: Theme) -> Figure:
    lines = [rows[start : start + GROUPS_PER_ROW] for start in range(0, len(rows), GROUPS_PER_ROW)]
    widest = max(len(line) for line in lines)
    figure = Figure(figsize=(max(6.0, 1.0 + 2.2 * widest), 0.3 + 3.4 * len(lines)), layout="constrained")
    inits = [init for init in INITS if any(init in row.cells for row in rows)]
    width = min(0.8 / len(inits), 0.3)
    for panel, line in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        for order, init in enumerate(inits):
            drawn = [
                (place + (order - (len(inits) - 1) / 2) * width, row.cells[init])
                for place, row in enumerate(line)
                if init in row.cells
            ]
            panel.bar(
                [x for x, _ in drawn],
                [cell.accuracy_mean for _, cell in drawn],
                width * 0.9,
                color=theme.of(init),
                label=init if panel is figure.axes[0] else None,
            )
            for x, cell in drawn:
                top = cell.accuracy_mean
                if cell.accuracy_std is not None:
                    panel.errorbar(x, cell.accuracy_mean, cell.accuracy_std, color=theme.ink, capsize=4, linewidth=1.2)
                    top = max(top + cell.accuracy_std, *cell.accuracy)
                if cell.n > 1:
                    steps = [width * 0.4 * (i / (cell.n - 1) - 0.5) for i in range(cell.n)]
                    panel.scatter(
                        [x + step for step in steps],
                        cell.accuracy,
                        s=20,
                        color=theme.background,
                        edgecolors=theme.ink,
                        linewidths=0.9,
                        zorder=3,
                    )
                panel.annotate(
                    f"{cell.accuracy_mean:.1f}",
                    (x, top),
                    (0, 4),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    fontweight="bold",
                    color=theme.ink,
                )
        panel.set_xticks(range(len(line)), [f"{row.target}\nk = {row.shots}" for row in line])
        panel.set_xlim(-0.6, max(widest, 2) - 0.4)
        panel.set_ylim(0, 108)
        panel.set_yticks(range(0, 101, 20))
        panel.set_ylabel("test accuracy, %")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


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
    labelled: dict[tuple[int, int, str], Any] = {}
    for axis, (title, members) in zip(axes, panels.items(), strict=False):
        _panel(axis, members, attribute, theme, labelled)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
    keys = sorted(labelled)
    figure.legend(
        [labelled[key] for key in keys], [key[-1] for key in keys], loc="outside upper left", ncols=min(7, len(keys))
    )
    return figure


def _panel(
    axis: Axes, members: Sequence[TrialOutcome], attribute: str, theme: Theme, labelled: dict[tuple[int, int, str], Any]
) -> None:
    """One axis; `labelled` gathers a line for each legend entry, keyed in the order of the legend."""
    seeds = sorted({outcome.spec.seed for outcome in members})
    apart = len(seeds) <= SEEDS_TOLD_APART
    for outcome in members:
        steps, values = zip(*getattr(outcome, attribute), strict=True)
        spec = outcome.spec
        source = spec.role == "source"
        order = seeds.index(spec.seed) if apart else 0
        (line,) = axis.plot(
            steps,
            values,
            color=theme.muted if source else theme.of(spec.init),
            linestyle=DASHES[order],
            marker="o" if len(steps) < 12 else None,
            markersize=3.5,
        )
        if source:
            labelled.setdefault((-1, 0, "source"), line)
        else:
            labelled.setdefault(
                (
                    INITS.index(spec.init),
                    order,
                    f"{spec.init}, seed {spec.seed}" if apart else f"{spec.init}, {len(seeds)} seeds",
                ),
                line,
            )
        if attribute == "validation_curve" and outcome.best_step in steps:  # the step whose adapter was kept
            axis.plot(
                outcome.best_step,
                values[steps.index(outcome.best_step)],
                "o",
                markersize=8,
                fillstyle="none",
                color=line.get_color(),
            )
