"""The block `search:` of a plan. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dept.config import Answers, Objective

RangeKey = Literal[
    "dept", "transfer", "adept", "prompt-tuning", "lora", "lora-r8", "full", "low-rank", "head", "pictures"
]


class SearchPlan(BaseModel):
    """How the recipe of each draw is searched: many candidates train on its rows, and those that fall behind leave."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    candidates: int = Field(32, ge=1, le=1000, description="recipes that are tried for each draw and method")
    folds: int = Field(
        2,
        ge=1,
        le=10,
        description="parts into which shots and validation rows are cut; each is validated on by what "
        "the others trained. 1: the shots train, the validation rows validate (so with the start mixture, whose "
        "weights the shots have chosen; with more folds auto leaves it out)",
    )
    minutes: float | None = Field(
        None, gt=0, le=100_000, description="of training and validating, after which a search ends; empty: no bound"
    )
    steps: int = Field(48, ge=1, le=1_000_000, description="steps of a candidate that never falls behind")
    eval_every: int = Field(4, ge=1, description="steps between validations")
    rungs: list[Annotated[int, Field(ge=1)]] = Field(
        default=[4, 12, 24], max_length=20, description="steps at which only the best 1 in `eta` go on"
    )
    eta: int = Field(3, ge=2, le=10, description="one of so many goes on at a rung")
    answers: list[Answers] = Field(
        default_factory=list, max_length=3, description="words, head, both: what is tried; empty: adapter.answers"
    )
    objectives: list[Objective] = Field(
        default_factory=list, max_length=2, description="words, vocabulary: what is tried; empty: as the recipe has it"
    )
    shapes: bool = Field(False, description="also try m against r at the budget of the plan's adapter, from scratch")
    ranges: dict[RangeKey, tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]] = Field(
        default_factory=dict,
        description="lowest and highest peak rate that is tried: of P (dept, transfer, prompt-tuning), of lora, full, "
        "of A and B (low-rank), of the head and of the map of pictures; those not named have their own",
    )
    together: int = Field(
        4,
        ge=1,
        le=16,
        description="of auto: so many of the best candidates answer as one (an ensemble), unless fewer are better on "
        "rows held out by more than their noise, and beside them probe and TF-IDF by the same rule, each with a "
        "quarter of their weight; each answer costs as many passes. 1: one adapter alone",
    )
    refit: bool = Field(
        True, description="what was found is trained on shots and validation rows together; false: on the shots alone"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchPlan:
        if self.rungs != sorted(set(self.rungs)):
            raise ValueError(f"rungs: must rise, got {self.rungs}")
        if odd := [rung for rung in self.rungs if rung % self.eval_every]:
            raise ValueError(f"rungs: {odd[0]} is no multiple of eval_every ({self.eval_every})")
        if wrong := [key for key, (low, high) in self.ranges.items() if low > high]:
            raise ValueError(f"ranges: {wrong[0]}: the lowest rate comes first")
        return self
