"""Keys of a plan that say how its adapters answer: calibrated, several together, one in their place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from dept.config import Calibration
from flows.planning.search_plan import SearchPlan

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
Distil = Annotated[
    bool,
    Field(
        description="of each ensemble also one adapter, which starts from its best member and learns, on the rows of "
        "that member's draw, to answer as all do together: as good as several and as cheap as one, where it succeeds"
    ),
]


def wrong_ensemble(
    many: int, of: MembersOf, seeds: int, distil: bool, methods: Sequence[str], search: SearchPlan | None = None
) -> str:
    """Why a plan's ensembles cannot be, or ""."""
    if many == 1:
        return "ensemble: one adapter is no ensemble; name at least 2, or 0 for none"
    if many > seeds and of == "seeds":
        return f"ensemble: {many} seeds are needed, seeds names {seeds}"
    if distil and not (many or "auto" in methods):
        return "distil: there is no ensemble to learn from; say with ensemble how many answer together"
    if distil and not many and search is not None and search.together == 1:
        return "distil: auto answers with one adapter (search: together: 1), so there is no ensemble; raise together"
    return ""
