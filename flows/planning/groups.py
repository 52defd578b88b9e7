"""What differs for some targets of a plan. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dept.config import AdapterConfig, TrainConfig

Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


@dataclass(frozen=True)
class Recipe:
    """How a target's adapter is made: its shape, and its training from scratch and from a source."""

    adapter: AdapterConfig
    scratch_training: TrainConfig
    transfer_training: TrainConfig


class Group(BaseModel):
    """What differs for some targets. Keys that are not named are those of the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    targets: list[Name] = Field(min_length=1, description="targets of this group")
    adapter: dict[str, Any] = Field(default_factory=dict, description="m, r, s, alpha, layout that differ")
    scratch_training: dict[str, Any] = Field(default_factory=dict, description="keys of scratch_training that differ")
    transfer_training: dict[str, Any] = Field(default_factory=dict, description="keys of transfer_training that differ")

    @field_validator("adapter", "scratch_training", "transfer_training")
    @classmethod
    def _known_keys(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """So that a fault is told with its place; `Plan` checks them together with the plan's own."""
        (AdapterConfig if info.field_name == "adapter" else TrainConfig).model_validate(value)
        return value
