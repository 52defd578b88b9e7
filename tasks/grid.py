"""The numbers that a regression answers with."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from pydantic import Field, model_validator

from tasks.origins import Frozen

MOST_POINTS = 1000  # of a grid: each point is a word that is scored


class Grid(Frozen):
    """Numbers a regression answers with, as text: low, low + step, ... high."""

    low: float = Field(description="least number that may be answered")
    high: float = Field(description="greatest number that may be answered")
    step: float = Field(gt=0, description="from one number to the next")

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        if high <= low:
            raise ValueError("grid: high must be above low")
        if (high - low) / step >= MOST_POINTS or (high - low) % step:  # in this order: of too many there is no rest
            raise ValueError(f"grid: high - low must be a whole number of steps, fewer than {MOST_POINTS}")
        return self

    @property
    def points(self) -> tuple[str, ...]:
        """The numbers as text, all with as many decimals as low and step need."""
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        places = max(0, *(-int(value.normalize().as_tuple().exponent) for value in (low, step)))
        return tuple(f"{low + step * i:.{places}f}" for i in range(int((high - low) / step) + 1))
