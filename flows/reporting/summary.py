"""What a run found: test scores over seeds, per target, k and variant. Pure numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dept.trial import TrialOutcome, goodness
from flows.reporting.shots import in_order, k_of
from flows.reporting.variants import TRANSFER, has_draws, is_strategy, rank
from flows.reporting.words import spread


def score_of(measured: Mapping[str, float]) -> float:
    """The score that ranks, percent; outcomes of old versions hold accuracy only."""
    return measured["score"] if "score" in measured else measured["accuracy"]


def metric_of(outcome: TrialOutcome) -> str:
    """Name of the metric that is the score of an outcome's task."""
    return str(outcome.extra.get("metric", "accuracy"))


def zero_shot(outcome: TrialOutcome) -> bool:
    """Whether it is a source adapter, tried on a target as it is."""
    return outcome.spec.init == "source" and outcome.spec.training.steps == 0


def trained(outcome: TrialOutcome) -> bool:
    """Whether it is an adapter, or a baseline, that a plan asks for: no search, probe, mixture or evaluation."""
    return outcome.spec.kind == "train" and outcome.spec.role != "search"


def joins(outcome: TrialOutcome) -> bool:
    """Whether it is an adapter that answers with others as what `auto` chose: trained, but not tested by itself."""
    return outcome.spec.kind == "train" and outcome.spec.role == "search" and outcome.spec.searched is not None


def tried(outcome: TrialOutcome) -> bool:
    """Whether it was made to choose by: a search of rates or recipes, a probe, a mixture."""
    return not (trained(outcome) or joins(outcome) or outcome.spec.kind == "ensemble")


def unmoved(outcomes: Iterable[TrialOutcome]) -> list[TrialOutcome]:
    """Trained trials whose kept step is 0: no validation loss was below that of the start, so they are their start."""
    return [o for o in outcomes if (trained(o) or joins(o)) and o.steps_done > 0 and o.best_step == 0]


@dataclass(frozen=True)
class Cell:
    """The tested trials of one target, k and variant: one per seed, in the order of seeds. Scores are percent."""

    outcomes: tuple[TrialOutcome, ...]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.outcomes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, ascending."""
        return tuple(outcome.spec.seed for outcome in self.outcomes)

    @property
    def scores(self) -> tuple[float, ...]:
        """Test scores, one per seed."""
        return tuple(score_of(outcome.test) for outcome in self.outcomes)

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None for one seed, which has no spread."""
        return statistics.stdev(self.scores) if self.n > 1 else None

    @property
    def text(self) -> str:
        """As in `83.7 ± 1.2 (n=2)`."""
        return spread(self.scores)

    @property
    def macro_f1_text(self) -> str | None:
        """As in `83.7 ± 1.2 (n=2)`; None for a task without that metric."""
        values = [outcome.test["macro_f1"] for outcome in self.outcomes if "macro_f1" in outcome.test]
        return spread(values) if len(values) == self.n else None

    @property
    def variants(self) -> tuple[str, ...]:
        """Variant of each seed; they differ where the best strategy was chosen."""
        return tuple(outcome.spec.variant for outcome in self.outcomes)

    @property
    def sources(self) -> tuple[str | None, ...]:
        """Task of the adapter that each seed started from."""
        return tuple(outcome.spec.source_task for outcome in self.outcomes)

    @property
    def origin(self) -> str:
        """The tasks it started from, in words."""
        return ", ".join(dict.fromkeys(source for source in self.sources if source))


@dataclass(frozen=True)
class Row:
    """One target and k: a cell per variant, in the order of `rank`; `transfer` repeats the strategies chosen."""

    target: str
    shots: int | None  # None: all training rows
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def k(self) -> int | str:
        """A number, or `all`."""
        return k_of(self.shots)

    @property
    def metric(self) -> str:
        """Name of the metric that is the score."""
        return next((metric_of(cell.outcomes[0]) for cell in self.cells.values()), "accuracy")

    @property
    def sources(self) -> tuple[str, ...]:
        """Tasks whose adapters the chosen transfer trials started from."""
        cell = self.cells.get(TRANSFER)
        return tuple(dict.fromkeys(source for source in cell.sources if source)) if cell else ()

    def gains_of(self, variant: str, over: str = "scratch") -> tuple[float, ...]:
        """Points of a variant over another on the same shots, one per seed that both have."""
        if not {variant, over} <= self.cells.keys():
            return ()
        base, mine = (dict(zip(self.cells[v].seeds, self.cells[v].scores, strict=True)) for v in (over, variant))
        return tuple(mine[seed] - base[seed] for seed in base if seed in mine)

    def even(self, variants: Iterable[str]) -> dict[str, float]:
        """Mean scores of variants over the seeds that all of them have; empty where they share none.

        What has no draw of its own (untrained), or stands for several (an ensemble), counts as it is.
        """
        cells = {variant: self.cells[variant] for variant in variants}
        drawn = [set(cell.seeds) for variant, cell in cells.items() if has_draws(variant)]
        seeds = set.intersection(*drawn) if drawn else set()
        if drawn and not seeds:
            return {}
        kept = {v: seeds if has_draws(v) else set(cell.seeds) for v, cell in cells.items()}
        return {
            v: statistics.fmean(score for seed, score in zip(c.seeds, c.scores, strict=True) if seed in kept[v])
            for v, c in cells.items()
        }

    @property
    def gains(self) -> tuple[float, ...]:
        """Points of transfer over scratch, one per seed that both have."""
        return self.gains_of(TRANSFER)

    @property
    def gain(self) -> float | None:
        """Mean of `gains`; None where no seed has both."""
        return statistics.fmean(self.gains) if self.gains else None


def summary_rows(outcomes: Sequence[TrialOutcome]) -> list[Row]:
    """Aggregate tested target trials over seeds, per target and k, in the order in which they come.

    An untrained trial has no shots; it is shown beside every k of its target, all training rows too. Trials of a
    learning-rate search and zero-shot trials take no part.
    """
    made = [o for o in distinct(outcomes) if trained(o) or o.spec.kind == "ensemble"]
    tested = [o for o in made if o.spec.role == "target" and o.test and not zero_shot(o)]
    rows: dict[tuple[str, int | None], dict[str, list[TrialOutcome]]] = {}
    for outcome in tested:
        if outcome.spec.init != "untrained":
            found = rows.setdefault((outcome.spec.task, outcome.spec.shots), {})
            found.setdefault(outcome.spec.variant, []).append(outcome)
    shots_of: dict[str, list[int | None]] = {}
    for target, shots in rows:
        shots_of.setdefault(target, []).append(shots)
    for outcome in tested:
        if outcome.spec.init == "untrained":
            for shots in shots_of.get(outcome.spec.task, ()):
                rows[outcome.spec.task, shots].setdefault(outcome.spec.variant, []).append(outcome)
    summed = []
    for (target, shots), found in rows.items():
        if chosen := _choose([o for members in found.values() for o in members if o.spec.transfers]):
            found[TRANSFER] = chosen
        cells = {v: Cell(tuple(sorted(found[v], key=lambda o: o.spec.seed))) for v in sorted(found, key=rank)}
        summed.append(Row(target, shots, cells))
    return summed


def distinct(outcomes: Iterable[TrialOutcome]) -> list[TrialOutcome]:
    """Each trial once. Two strategies that came to the same start share a trial and both count."""
    return list({outcome.spec: outcome for outcome in outcomes}.values())


def shown(rows: Iterable[Row]) -> list[str]:
    """The variants to show, in order; where there is one strategy only, `transfer` stands for it."""
    found = {variant for row in rows for variant in row.cells}
    strategies = {v for row in rows for cell in row.cells.values() for v in cell.variants if is_strategy(v)}
    return sorted(found - strategies if len(strategies) == 1 else found, key=rank)


def means(rows: Sequence[Row]) -> dict[int | None, tuple[int, dict[str, float]]]:
    """Per k: number of targets, and each shown variant's mean over them: targets that all variants of that k have, and
    of each the seeds that all have, so that a failed trial makes no other draw count.
    """
    result = {}
    variants = shown(rows)
    for k in in_order(row.shots for row in rows):
        here = [row for row in rows if row.shots == k]
        present = [variant for variant in variants if any(variant in row.cells for row in here)]
        shared = [even for row in here if row.cells.keys() >= set(present) and (even := row.even(present))]
        if shared:
            result[k] = len(shared), {v: statistics.fmean(even[v] for even in shared) for v in present}
    return result


def measure_name(rows: Iterable[Row]) -> str:
    """`accuracy` where that is the score of every target, else `score`."""
    return "accuracy" if all(row.metric == "accuracy" for row in rows) else "score"


def _choose(transferred: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Per seed the trial of lowest validation loss (tie: better score, then order); the test score plays no part."""
    best: dict[int, TrialOutcome] = {}
    for outcome in sorted(transferred, key=lambda o: rank(o.spec.variant)):
        seed = outcome.spec.seed
        if seed not in best or goodness(outcome.validation) > goodness(best[seed].validation):
            best[seed] = outcome
    return list(best.values())
