"""The kinds of task, and the metrics that fit each."""

from __future__ import annotations

from typing import Literal

Kind = Literal["classification", "regression", "qa", "generation"]
Metric = Literal[
    "accuracy",
    "macro_f1",
    "f1",
    "matthews",
    "multirc_f1",
    "multirc_em",
    "pearson",
    "spearman",
    "squad_em",
    "squad_f1",
    "vqa_accuracy",
    "cider_d",
    "bleu4",
]
TEXT_METRICS: tuple[Metric, ...] = ("squad_em", "squad_f1")
DEFAULT_METRICS: dict[Kind, tuple[Metric, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "qa": TEXT_METRICS,
    "generation": TEXT_METRICS,
}
FITTING: dict[Kind, tuple[Metric, ...]] = DEFAULT_METRICS | {
    "classification": ("accuracy", "macro_f1", "f1", "matthews", "multirc_f1", "multirc_em"),
    "qa": (*TEXT_METRICS, "vqa_accuracy"),
    "generation": (*TEXT_METRICS, "vqa_accuracy", "cider_d", "bleu4"),
}
