"""Colours of figures and pages: one palette for bright and one for dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Hues of Okabe and Ito and of Paul Tol, which the colour-blind tell apart; baselines are hatched besides.
BRIGHT = {
    "untrained": "#a9b1bd",
    "tfidf": "#8a6d4f",
    "probe": "#3d7d4e",
    "in-context": "#5f6b7a",
    "scratch": "#e08a1e",
    "best-source": "#63b3e6",
    "similar": "#14907a",
    "mixture": "#cc79a7",
    "multitask": "#882255",
    "prompt-only": "#9a9330",
    "transfer": "#1f5fbf",
    "auto": "#117733",
    "adept": "#d55e00",
    "prompt-tuning": "#d9c25a",
    "lora": "#cc6677",
    "lora-r8": "#7a2e3e",
    "full": "#332288",
}
DIM = BRIGHT | {
    "untrained": "#6d7785",
    "tfidf": "#b9966f",
    "probe": "#67b57b",
    "in-context": "#a3adba",
    "scratch": "#f0a94a",
    "best-source": "#8ecdf2",
    "similar": "#3fbfa5",
    "multitask": "#c04b86",
    "transfer": "#5c9bf5",
    "auto": "#4fb36f",
    "lora-r8": "#a8566a",
    "full": "#9184e0",
}
SOURCES = ("#4f9d3a", "#a0603c", "#7f6fd6", "#c0566a", "#58a5a0", "#b39b2e")  # source:NAME, by its place among them
HATCHES = {
    **{"tfidf": "--", "probe": "||", "in-context": "..", "adept": "++"},
    **{"prompt-tuning": "///", "lora": "\\\\\\", "lora-r8": "\\\\", "full": "xxx"},
}


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
