"""What is compared, and in which order it is shown. Pure."""

from __future__ import annotations

from dept.trial import AUTO, DISTILLED, TOGETHER

TRANSFER = "transfer"  # per seed the strategy with the lowest validation loss
STARTS = ("untrained", "scratch", TRANSFER)  # what a run with one strategy compares
SINGLE = ("best-source", "similar", "mixture", "multitask", "prompt-only")
SIMPLE = ("tfidf", "probe", "in-context")
BASELINES = ("adept", "prompt-tuning", "lora", "lora-r8", "full")
ORDER = (
    "untrained",
    "calibrated",
    *SIMPLE,
    "scratch",
    *SINGLE,
    "source:",
    TRANSFER,
    AUTO,
    *BASELINES,
    TOGETHER,
    "ensemble",
    DISTILLED,
    "distilled",
)


def rank(variant: str) -> tuple[int, str]:
    """Sort key of a variant: the untrained, scratch, strategies, baselines, several together; sources by name."""
    kind = next((kind for kind in ("source:", TOGETHER, DISTILLED) if variant.startswith(kind)), variant)
    return ORDER.index(kind) if kind in ORDER else len(ORDER), variant


def is_strategy(variant: str) -> bool:
    """Whether it is one way to start from what was learned on sources."""
    return variant in SINGLE or variant.startswith("source:")


def has_draws(variant: str) -> bool:
    """Whether it is trained draw by draw: the untrained has no draw, several together may have several."""
    return variant.partition(":")[0] not in ("untrained", "ensemble", "distilled")
