"""The order of a retraining run. Pure, as the plan is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from dept.config import TrainConfig
from flows.planning.plan import TRANSFER_TRAINING, Dtype
from tasks.spec import Task


class Retraining(BaseModel):
    """What to look at, and when a challenger wins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field("smollm2-135m", min_length=1, max_length=500, description="backbone of the champions")
    tasks: list[str] = Field(default_factory=list, description="tasks whose champions to look at; empty: all")
    own_tasks: list[Task] = Field(default_factory=list, description="your own tasks, each a block as in the catalogue")
    max_age_days: float = Field(30.0, gt=0, description="an older champion is stale, days")
    margin: float = Field(1.0, ge=0, description="a challenger must be better by more than this, points of accuracy")
    test_rows: int = Field(200, ge=1, description="test rows that both are scored on, at most")
    training: TrainConfig = Field(
        TRANSFER_TRAINING,
        description="how a challenger that starts from a source is trained",
    )
    device: str | None = Field(None, description="cpu, cuda, ...; empty: the best there is")
    dtype: Dtype | None = Field(None, description="type of the frozen weights, as in the plan of the champions")
