"""The result of a study as files to commit: a table (JSON) and a figure (PNG)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dept.trial import TrialOutcome
from flows.planning.plan import Plan
from flows.reporting.answers import Honesty, Together, ece_of, honesty, together
from flows.reporting.headline import headline
from flows.reporting.palette import LIGHT, Theme
from flows.reporting.plot import LEGEND_COLUMNS, png
from flows.reporting.shots import in_order, k_of
from flows.reporting.summary import Row, joins, means, measure_name, shown, summary_rows
from infra.errors import InputError
from infra.files import write_bytes, write_text

PANELS_PER_ROW = 3
MARKERS = "osD^vPX<>h*p"


def write_study(
    folder: Path, plan: Plan, outcomes: Sequence[TrialOutcome], facts: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write <plan name>.json and <plan name>.png; returns their paths. Files of an earlier study are replaced.

    The JSON holds `headline`, `rows` (target, k, variant, metric, n, mean, std, ece, scores and seeds, started_from and
    for transfer chosen: one a seed), `means` over targets per k, `honesty` (expected calibration error, percent, and
    what was chosen), `ensembles` beside their mean member, and the facts. The figure shows mean and sample standard
    deviation per target, k and variant.

    Args:
        facts: commit, and whatever else should be told; versions, machine and date are this process's own if left out.

    Raises:
        InputError: no target trial was tested.
    """
    from flows.reporting.made_on import machine, versions

    rows = summary_rows(outcomes)
    if not rows:
        raise InputError(
            f"study {plan.name}: no target trial was tested, so there is nothing to tell; run the plan first"
        )
    variants = shown(rows)
    answer = headline(rows)
    told = {"commit": None, "date": date.today().isoformat()} | dict(facts)
    body = {
        "plan_name": plan.name,
        "headline": {"text": answer.text, "detail": answer.detail, "gain_points": answer.gain},
        **told,
        "versions": told.get("versions") or versions(),
        "machine": told.get("machine") or machine(),
        "trials": sum(outcome.spec.role != "search" or joins(outcome) for outcome in outcomes),
        "search_trials": sum(outcome.spec.role == "search" and not joins(outcome) for outcome in outcomes),
        "rows": [_entry(row, variant) for row in rows for variant in variants if variant in row.cells],
        "means": [
            {"k": k_of(k), "targets": targets, "variant": variant, "mean": round(mean, 3)}
            for k, (targets, found) in means(rows).items()
            for variant, mean in found.items()
        ],
        "honesty": [_honesty(one) for one in honesty(rows)],
        "ensembles": [_together(one) for one in together(outcomes)],
        "plan": plan.model_dump(mode="json"),
    }
    table, figure = (folder / f"{plan.name}.{kind}" for kind in ("json", "png"))
    write_text(table, json.dumps(body, indent=1, ensure_ascii=False, default=str) + "\n")
    write_bytes(figure, png(lambda theme: _figure(rows, variants, theme), LIGHT))
    return table, figure


def _entry(row: Row, variant: str) -> dict[str, Any]:
    cell = row.cells[variant]
    gains = row.gains_of(variant) if variant not in ("scratch", "untrained") else ()
    entry: dict[str, Any] = {
        "target": row.target,
        "k": row.k,
        "variant": variant,
        "metric": row.metric,
        "n": cell.n,
        "mean": round(cell.mean, 3),
        "std": None if cell.std is None else round(cell.std, 3),
        "scores": [round(score, 3) for score in cell.scores],
        "seeds": list(cell.seeds),
        "trainable": sorted({outcome.trainable for outcome in cell.outcomes}),
    }
    if (error := ece_of(cell)) is not None:
        entry["ece"] = round(error, 3)
    if gains:
        entry["gain_over_scratch"] = round(sum(gains) / len(gains), 3)
    if any(cell.sources):
        entry["started_from"] = list(cell.sources)
    if set(cell.variants) != {variant}:
        entry["chosen"] = list(cell.variants)
    return entry


def _honesty(one: Honesty) -> dict[str, Any]:
    about = {"calibrations": dict(one.calibrations), "temperature": one.temperature, "weight_of_head": one.weight}
    return {"k": k_of(one.shots), "variant": one.variant, "trials": one.trials, "ece": round(one.ece, 3), **about}


def _together(one: Together) -> dict[str, Any]:
    numbers = {name: round(getattr(one, name), 3) for name in ("mean_member", "best_member", "score", "gain")}
    numbers |= {} if one.distilled is None else {"distilled": round(one.distilled, 3)}
    return {"target": one.target, "k": k_of(one.shots), "variant": one.variant, "seeds": list(one.seeds), **numbers}


def _figure(rows: Sequence[Row], variants: Sequence[str], theme: Theme) -> Figure:
    targets = list(dict.fromkeys(row.target for row in rows))
    shots = in_order(row.shots for row in rows)
    across = min(PANELS_PER_ROW, len(targets))
    down = -(-len(targets) // across)
    wide = max(3.4, 0.4 + len(shots) * (0.16 * len(variants) + 0.3))
    entries = -(-len(variants) // LEGEND_COLUMNS)
    figure = Figure(figsize=(max(7.2, wide * across), 0.3 + 0.22 * entries + 3.0 * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for spare in axes[len(targets) :]:
        spare.set_axis_off()
    legend: dict[str, Any] = {}
    for axis, target in zip(axes, targets, strict=False):
        found = {row.shots: row for row in rows if row.target == target}
        _panel(axis, found, shots, variants, theme, legend)
        axis.set_title(target)
        metric = next(iter(found.values())).metric
        axis.set_ylabel(f"test {metric}, %" if measure_name(rows) == "score" else "test accuracy, %")
    names = [variant for variant in variants if variant in legend]
    figure.legend([legend[name] for name in names], names, loc="outside upper left", ncols=LEGEND_COLUMNS)
    return figure


def _panel(
    axis: Axes,
    found: Mapping[int | None, Row],
    shots: Sequence[int | None],
    variants: Sequence[str],
    theme: Theme,
    legend: dict[str, Any],
) -> None:
    step = 0.8 / len(variants)
    for order, variant in enumerate(variants):
        drawn = [
            (place + (order - (len(variants) - 1) / 2) * step, found[k].cells[variant])
            for place, k in enumerate(shots)
            if k in found and variant in found[k].cells
        ]
        if drawn:
            legend.setdefault(
                variant,
                axis.errorbar(
                    [x for x, _ in drawn],
                    [cell.mean for _, cell in drawn],
                    [cell.std or 0.0 for _, cell in drawn],
                    fmt=MARKERS[order % len(MARKERS)],
                    color=theme.of(variant, variants),
                    markersize=5.5,
                    elinewidth=1.3,
                    capsize=2.5,
                ),
            )
    axis.set_xticks(range(len(shots)), [f"k = {k_of(k)}" for k in shots])
    axis.set_xlim(-0.55, len(shots) - 0.45)
