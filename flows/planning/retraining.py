"""The order of a retraining run, and which champions are stale. Pure, as the plan is."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from dept.config import TrainConfig
from dept.trial import TrialSpec
from flows.planning.defaults import TRANSFER_TRAINING
from flows.planning.plan import Dtype, WorkerCount
from tasks.spec import Task


class Retraining(BaseModel):
    """What to look at, and when a challenger wins."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    backbone: str = Field("smollm2-135m", min_length=1, max_length=500, description="backbone of the champions")
    tasks: list[str] = Field(default_factory=list, description="tasks whose champions to look at; empty: all")
    own_tasks: list[Task] = Field(
        default_factory=list,
        description="your own tasks, each a block as in the catalogue; those of earlier runs are known",
    )
    max_age_days: float = Field(30.0, gt=0, description="a champion is stale when its last decision is older, days")
    margin: float = Field(1.0, ge=0, description="a challenger must be better by more than this, points of its metric")
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="of all decisions about one champion together: 0.95 exchanges equals once in 20"
    )
    training: TrainConfig = Field(
        TRANSFER_TRAINING,
        description="how a challenger that starts from a source is trained",
    )
    workers: WorkerCount | None = Field(
        None,
        description="workers at a time, in a work pool; empty: the limit of their pool, or 1 where it has none",
    )
    device: str | None = Field(None, description="cpu, cuda, ...; empty: the best there is")
    dtype: Dtype | None = Field(
        None, description="type of the frozen weights for challengers; a champion is scored with its own"
    )


class Stale(BaseModel):
    """A champion that wants a challenger, and why.

    only_old: nothing else has changed, so that the same trial would be the same adapter.
    """

    task: str
    fingerprint: str
    reasons: list[str]
    only_old: bool


def reasons(
    spec: TrialSpec, state: str, today: Mapping[str, str | int | None], age_days: float, max_age_days: float
) -> tuple[list[str], list[str]]:
    """Why a champion is stale: what has changed, and whether it is too old; nothing where it is fresh.

    Number type and device play no part: a champion is scored with its own.

    Args:
        spec: of the champion's trial. state: hash of its task's rows then.
        today: `data_hash`, `task_version`, `backbone_id` and `computed` as they are now; `encoder`, where its map reads
            one: the sha256 of that.
        age_days: since the last decision about it.
    """
    then = {"data_hash": state, "task_version": spec.task_version, "backbone_id": spec.backbone_id}
    then |= {"computed": spec.computed}
    names = {"data_hash": "task data", "task_version": "task spec", "backbone_id": "backbone"}
    names |= {"computed": "how the backbone is computed"}
    if "encoder" in today:
        then["encoder"] = spec.adapter.pictures.encoder_id if spec.adapter.pictures else None
        names["encoder"] = "picture encoder"
    changed = [f"{names[key]} changed" for key in names if then[key] != today[key]]
    old = [f"{age_days:.1f} days old, more than {max_age_days:g}"] if age_days > max_age_days else []
    return changed, old
