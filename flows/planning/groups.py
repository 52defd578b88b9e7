"""Words of a plan that have bounds of their own, and what differs for some of its targets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from dept.config import AdapterConfig, TrainConfig
from infra.explain import Form

P = TypeVar("P", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Shots = Annotated[
    Annotated[int, Field(ge=1, le=10_000), Tag("k")] | Annotated[Literal["all"], Tag("all")],
    Discriminator(lambda value: "all" if isinstance(value, str) else "k"),  # so that an error names one cause
]
PromptText = Annotated[str, Field(min_length=1, max_length=2000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
STRATEGIES = ("scratch", "best-source", "similar", "mixture", "multitask", "prompt-only", "source:NAME")
Strategy = Annotated[
    str,
    Form(", ".join(STRATEGIES), STRATEGIES),
    Field(
        pattern=r"^(scratch|best-source|similar|mixture|multitask|prompt-only|source:[A-Za-z0-9][A-Za-z0-9._-]*)$",
        description="scratch: vocabulary text; source:NAME: that source; best-source: each tried for a few steps, the "
        "best on validation; similar: the one whose prompt is nearest after a few steps; mixture: a convex mixture of "
        "all; multitask: one adapter trained on all at once; prompt-only: P of the best source, A and B new",
    ),
]


@dataclass(frozen=True)
class Recipe:
    """How a target's adapter is made: its shape, its training from scratch and from a source, and the text that the
    prompt of scratch trials starts from.
    """

    adapter: AdapterConfig
    scratch_training: TrainConfig
    transfer_training: TrainConfig
    prompt_text: str

    def of_group(self, group: Group) -> Recipe:
        """With what a group says otherwise.

        Raises:
            ValueError: a group names an unknown key or a value out of bounds.
        """
        return Recipe(
            _changed(self.adapter, group.adapter),
            _changed(self.scratch_training, group.scratch_training),
            _changed(self.transfer_training, group.transfer_training),
            group.prompt_text or self.prompt_text,
        )


class Group(BaseModel):
    """What differs for some targets. Keys that are not named are those of the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    targets: list[Name] = Field(min_length=1, description="targets of this group")
    adapter: dict[str, Any] = Field(default_factory=dict, description="m, r, s, alpha, layout, answers ... that differ")
    scratch_training: dict[str, Any] = Field(default_factory=dict, description="keys of scratch_training that differ")
    transfer_training: dict[str, Any] = Field(default_factory=dict, description="keys of transfer_training that differ")
    prompt_text: PromptText | None = Field(None, description="text whose token embeddings start the soft prompt")

    @field_validator("adapter", "scratch_training", "transfer_training")
    @classmethod
    def _known_keys(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """So that a fault is told with its place; `Plan` checks them together with the plan's own."""
        (AdapterConfig if info.field_name == "adapter" else TrainConfig).model_validate(value)
        return value


def _changed(part: P, keys: dict[str, Any]) -> P:
    return type(part).model_validate(part.model_dump() | keys)
