"""A figure in both themes, as PNG files: matplotlib without a screen."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from flows.reporting.palette import THEMES, Theme

DPI = 144
LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class Plot:
    """One figure in both themes, as PNG bytes.

    Attributes:
        alt: what replaces it for those who cannot see it. `note`: how to read it.
    """

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page; the pixels are half as many again, for fine screens."""
        width, height = struct.unpack(">II", self.light[16:24])  # PNG header
        return width * 96 // DPI, height * 96 // DPI


def both_themes(name: str, title: str, alt: str, draw: Callable[..., Figure], note: str = "") -> Plot:
    """Draw a figure in both themes; `draw` takes the theme."""
    light, dark = (png(draw, theme) for theme in THEMES)
    return Plot(name, title, alt, light, dark, note)


def png(draw: Callable[..., Figure], theme: Theme) -> bytes:
    """A figure drawn in one theme, as a PNG file of 256 colours: a third of the size, and flat areas need no more."""
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    with _style(theme):
        draw(theme).savefig(drawn, format="png", dpi=DPI, facecolor=theme.background, metadata={"Software": None})
    image = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(buffer, format="png")
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
