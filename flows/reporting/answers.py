"""How honest probabilities are, how they were made so, and what several adapters together are worth. Pure numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dept.trial import ADAPTERS, TOGETHER, TrialOutcome
from flows.reporting.shots import in_order
from flows.reporting.summary import Cell, Row, score_of, shown


@dataclass(frozen=True)
class Honesty:
    """One k and variant, all targets together.

    Attributes:
        trials: tested ones that choose among labels. ece: their mean expected calibration error, percent.
        calibrations: how many took which (`none`, `contextual`, `batch`); empty where nothing was chosen.
        temperature: median of those chosen, None where none was. weight: median of a head's, None without heads.
    """

    shots: int | None
    variant: str
    trials: int
    ece: float
    calibrations: Mapping[str, int]
    temperature: float | None
    weight: float | None

    @property
    def chosen(self) -> str:
        """As in `none 3, batch 1`."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.calibrations.items())) or "–"


@dataclass(frozen=True)
class Together:
    """An ensemble beside its members, test scores in percent; `distilled`: of the adapter that learned its answers."""

    target: str
    shots: int | None
    variant: str
    seeds: tuple[int, ...]
    mean_member: float
    best_member: float
    score: float
    distilled: float | None = None
    with_linear: float | None = None  # with linear baselines beside the adapters

    @property
    def gain(self) -> float:
        """Points over the mean member."""
        return self.score - self.mean_member


def honesty(rows: Sequence[Row]) -> list[Honesty]:
    """A line for each k and shown variant whose tests have an expected calibration error."""
    found = []
    for k in in_order(row.shots for row in rows):
        for variant in shown(rows):
            cells = [row.cells[variant] for row in rows if row.shots == k and variant in row.cells]
            tested = [outcome for cell in cells for outcome in cell.outcomes if "ece" in outcome.test]
            if tested:
                found.append(_line(k, variant, tested))
    return found


def together(outcomes: Sequence[TrialOutcome]) -> list[Together]:
    """Ensembles of adapters that were tested, in their order, as they answer without the linear baselines beside them;
    in ledgers from before members were tested with them only those whose members were tested as trials of their own.
    """
    single = [o for o in outcomes if o.spec.kind == "train" and not o.spec.teacher_sha256]
    by_sha = {o.adapter_sha256: o for o in single if o.adapter_sha256}
    learned = {o.spec.teacher_sha256: score_of(o.test) for o in outcomes if o.spec.teacher_sha256 and o.test}
    found = []
    for outcome in outcomes:
        if outcome.spec.kind != "ensemble" or not outcome.test:
            continue
        members = [by_sha[sha256] for sha256 in outcome.spec.sources if sha256 in by_sha]
        tested = [score_of(member.test) for member in members if member.test]
        scores = outcome.extra.get("members_alone") or (tested if len(tested) == len(outcome.spec.sources) else [])
        if len(scores) > 1:
            spec = outcome.spec
            seeds = tuple(sorted({member.spec.seed for member in members} or {spec.seed}))
            mean, best = statistics.fmean(scores), max(scores)
            variant = spec.variant.removeprefix(TOGETHER)
            alone, own = learned.get(outcome.adapter_sha256), outcome.extra.get(ADAPTERS, score_of(outcome.test))
            whole = score_of(outcome.test) if ADAPTERS in outcome.extra else None
            found.append(Together(spec.task, spec.shots, variant, seeds, mean, best, own, alone, whole))
    return found


def worth(found: Sequence[Together]) -> str:
    """What answering together was worth, in a sentence; empty where nothing did."""
    if not found:
        return ""
    gain = statistics.fmean(one.gain for one in found)
    how = f"{len(found)} ensemble" + ("s" if len(found) > 1 else "")
    seeds = any(len(one.seeds) > 1 for one in found)
    note = " Members of several seeds have learned from the shots of several draws." if seeds else ""
    kept = [one.distilled - one.mean_member for one in found if one.distilled is not None]
    alone = f" One adapter that learned their answers was worth {statistics.fmean(kept):+.1f}." if kept else ""
    joined = [one.with_linear - one.score for one in found if one.with_linear is not None]
    alone += f" Linear baselines beside them: {statistics.fmean(joined):+.1f} ({len(joined)})." if joined else ""
    return f"Answering together was worth {gain:+.1f} points over the mean member ({how}).{alone}{note}"


def ece_of(cell: Cell) -> float | None:
    """Mean expected calibration error, percent; None for tasks without it, and tests of older versions."""
    found = [outcome.test["ece"] for outcome in cell.outcomes if "ece" in outcome.test]
    return statistics.fmean(found) if len(found) == cell.n else None


def _line(shots: int | None, variant: str, tested: Sequence[TrialOutcome]) -> Honesty:
    chosen = [outcome.extra["readout"] for outcome in tested if outcome.extra.get("readout")]
    temperatures = [float(one["temperature"]) for one in chosen if "temperature" in one]
    weights = [float(one["weight"]) for one in chosen if "weight" in one]
    return Honesty(
        shots,
        variant,
        len(tested),
        statistics.fmean(outcome.test["ece"] for outcome in tested),
        Counter(str(one["calibration"]) for one in chosen if "calibration" in one),
        statistics.median(temperatures) if temperatures else None,
        statistics.median(weights) if weights else None,
    )
