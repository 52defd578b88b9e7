"""Keys of a plan that say how its adapters answer: calibrated, and several together. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dept.config import Calibration

AskedCalibration = Annotated[
    Calibration,
    Field(
        description="how scores become answers after training, kept with the adapter. contextual, batch: the words' "
        "log-probabilities less those that content-free inputs, or texts without labels, give; and a temperature. "
        "choose: the best of these and none by loss on the validation rows; untrained adapters, which have none, stay "
        "as they are"
    ),
]
Members = Annotated[
    int,
    Field(ge=0, le=64, description="adapters of a target and k that also answer together, as one; 0: none"),
]
MembersOf = Annotated[
    Literal["seeds", "starts"],
    Field(
        description="seeds: those of one variant, so together they have learned from the shots of several draws; "
        "starts: the best of one draw by validation loss, which differ in how they start"
    ),
]
