"""Curves of training and validation: a line for each trial, or the middle of many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dept.trial import TrialOutcome
from flows.reporting.palette import Theme
from flows.reporting.plot import LEGEND_COLUMNS, Plot, both_themes
from flows.reporting.shots import k_of
from flows.reporting.summary import trained
from flows.reporting.variants import TRANSFER, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS_PER_ROW = 2
WIDTH = 9.6  # inches; the page shows 96 points an inch
SEEDS_TOLD_APART = 3
DASHES = ("-", "--", ":")
MOST_PANELS = 12  # targets and k with a panel of their own; more are drawn together, a panel for each k
MOST_LINES = 24  # trials in one panel; more are told by the median of each variant
MOST_POINTS = 400
RING = "A ring marks the step whose adapter was kept"
KINDS = (  # name, title, field of the outcome, unit, how to read it
    ("loss", "Training loss", "loss_curve", "loss, nats per token", ""),
    (
        "validation-loss",
        "Validation loss",
        "validation_loss_curve",
        "loss, nats per token",
        f"{RING}: the lowest loss chose it. At step 0 the adapter is its start. ",
    ),
    (
        "validation",
        "Validation score",
        "validation_curve",
        "score, %",
        f"{RING}; the loss chose it, not this score. Test rows played no part. ",
    ),
)
Legend = dict[tuple[tuple[int, str], int, str], Any]


def curve_plots(outcomes: Sequence[TrialOutcome]) -> list[Plot]:
    """A plot for each kind of curve that the trained trials have."""
    made = []
    for name, title, attribute, unit, note in KINDS:
        drawn = [outcome for outcome in outcomes if trained(outcome) and getattr(outcome, attribute)]
        if drawn:
            panels = _panels(drawn)
            alone = all(len(members) <= MOST_LINES for members in panels.values())
            how = (
                "Each line is one trial."
                if alone
                else "Lines: the median trial of each variant; shaded: the middle half of the trials. Each trial's own "
                "curve is in report.json."
                + (" Where a line is one trial, a ring marks the step that was kept." if note else "")
            )
            made.append(
                both_themes(
                    name,
                    title,
                    f"Line chart, {unit} by optimizer step. {_told(drawn, attribute)}.",
                    lambda theme, panels=panels, attribute=attribute, unit=unit: _curves(
                        panels, attribute, unit, theme
                    ),
                    (note if alone else "") + how,
                )
            )
    return made


def _told(drawn: Sequence[TrialOutcome], attribute: str) -> str:
    ends = "; ".join(
        f"{o.spec.label} from {getattr(o, attribute)[0][1]:.3g} to {getattr(o, attribute)[-1][1]:.3g}"
        for o in drawn[:20]
    )
    return ends + (f"; and {len(drawn) - 20} more" if len(drawn) > 20 else "")


def _panels(outcomes: Sequence[TrialOutcome]) -> dict[str, list[TrialOutcome]]:
    """Trials by target and k; of many targets by k alone."""
    found: dict[str, list[TrialOutcome]] = {}
    for outcome in outcomes:
        found.setdefault(f"{outcome.spec.task}, {_shots(outcome)}", []).append(outcome)
    if len(found) <= MOST_PANELS:
        return found
    found = {}
    for outcome in outcomes:
        found.setdefault(_shots(outcome), []).append(outcome)
    tasks = {title: len({outcome.spec.task for outcome in members}) for title, members in found.items()}
    return {
        f"{tasks[title]} sources" if title == "source" else f"{title}, {tasks[title]} targets": members
        for title, members in list(found.items())[:MOST_PANELS]
    }


def _shots(outcome: TrialOutcome) -> str:
    return "source" if outcome.spec.role == "source" else f"k = {k_of(outcome.spec.shots)}"


def _curves(panels: Mapping[str, Sequence[TrialOutcome]], attribute: str, unit: str, theme: Theme) -> Figure:
    count = -(-len(panels) // PANELS_PER_ROW)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.7 * count), layout="constrained")
    axes = list(figure.subplots(count, PANELS_PER_ROW, squeeze=False).flat)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    labelled: Legend = {}
    targets = [o.spec for members in panels.values() for o in members if o.spec.role != "source"]
    strategies = {spec.variant for spec in targets if spec.transfers}
    names = {v: TRANSFER if {v} == strategies else v for v in sorted({spec.variant for spec in targets}, key=rank)}
    for axis, (title, members) in zip(axes, panels.items(), strict=False):
        draw = _lines if len(members) <= MOST_LINES else _medians
        draw(axis, members, attribute, theme, names, labelled)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        axis.set_ylabel(unit)
    keys = sorted(labelled)
    figure.legend(
        [labelled[key] for key in keys],
        [key[-1] for key in keys],
        loc="outside upper left",
        ncols=min(LEGEND_COLUMNS, len(keys)),
    )
    return figure


def _lines(
    axis: Axes,
    members: Sequence[TrialOutcome],
    attribute: str,
    theme: Theme,
    names: Mapping[str, str],
    labelled: Legend,
) -> None:
    """One axis; `labelled` gathers a line for each legend entry, keyed in the order of the legend."""
    seeds = sorted({outcome.spec.seed for outcome in members})
    apart = len(seeds) <= SEEDS_TOLD_APART
    for outcome in members:
        curve = _sparse(getattr(outcome, attribute), outcome.best_step)
        steps, values = zip(*curve, strict=True)
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
        if attribute != "loss_curve" and outcome.best_step in steps:
            axis.plot(
                outcome.best_step,
                values[steps.index(outcome.best_step)],
                "o",
                markersize=8,
                fillstyle="none",
                color=line.get_color(),
            )


def _medians(
    axis: Axes,
    members: Sequence[TrialOutcome],
    attribute: str,
    theme: Theme,
    names: Mapping[str, str],
    labelled: Legend,
) -> None:
    """One axis of many trials: median and middle half of each variant, at the steps that half of its trials have."""
    groups: dict[str, list[TrialOutcome]] = {}
    for outcome in members:
        source = outcome.spec.role == "source"
        groups.setdefault("source" if source else names.get(outcome.spec.variant, outcome.spec.variant), []).append(
            outcome
        )
    for variant, trials in groups.items():
        at: dict[int, list[float]] = {}
        for outcome in trials:
            for step, value in getattr(outcome, attribute):
                at.setdefault(step, []).append(value)
        common = [(step, 0.0) for step in sorted(at) if 2 * len(at[step]) >= len(trials)]
        steps = [step for step, _ in _sparse(common)]
        quartiles = [statistics.quantiles(at[step], n=4) if len(at[step]) > 1 else at[step] * 3 for step in steps]
        colour = theme.muted if variant == "source" else theme.of(variant, list(names))
        (line,) = axis.plot(steps, [middle for _, middle, _ in quartiles], color=colour)
        axis.fill_between(
            steps, [low for low, _, _ in quartiles], [high for _, _, high in quartiles], color=colour, alpha=0.15, lw=0
        )
        key = ((-1, ""), 0, "source") if variant == "source" else (rank(variant), 0, variant)
        labelled.setdefault(key, line)


def _sparse(curve: Sequence[tuple[int, float]], kept: int = -1) -> list[tuple[int, float]]:
    """At most about `MOST_POINTS` points: more cannot be told apart."""
    if len(curve) <= MOST_POINTS:
        return list(curve)
    every = len(curve) / MOST_POINTS
    chosen = {round(place * every) for place in range(MOST_POINTS)} | {len(curve) - 1}
    return [point for place, point in enumerate(curve) if place in chosen or point[0] == kept]
