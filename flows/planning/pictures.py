"""Whether a backbone can do tasks whose rows have pictures, asked before any of these is fetched. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dept.backbones.describe import BackboneInfo
from dept.backbones.encoder_files import WHAT, looked_up
from dept.config import AdapterConfig, PictureMap
from flows.planning.backbone_cost import local_folder
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.formatting import Example
from tasks.spec import Task

LOOKED_AT = 20  # pictures of a task whose blocks are counted


def reads_pictures(plan: Plan, backbone: BackboneInfo) -> bool:
    """Whether the backbone of a plan sees pictures by itself: what its description says; ranks see none."""
    return backbone.reads_pictures and plan.engine == "local"


def check_pictures(plan: Plan, tasks: Mapping[str, Task], info: Callable[[], BackboneInfo | None]) -> None:
    """Refuse tasks with pictures that nothing would see, neither the backbone nor a map of the adapters; and methods
    that have no place for them.

    Args:
        info: describes the backbone; None: not on this machine, so that nothing is known. Asked only where it counts.

    Raises:
        InputError: there is such a task; or the backbone cannot be described.
    """
    shown = [name for name in plan.targets if tasks[name].sees]
    if shown and "in-context" in plan.methods:
        raise InputError(
            f"methods: in-context: shots in the prompt hold no pictures, and the rows of {shown[0]} do. Remedy: other "
            "methods, or picture: hidden in the task"
        )
    if shown and plan.calibration == "contextual":
        raise InputError(
            f"calibration: contextual: nothing stands for a picture without content, and the rows of {shown[0]} have "
            "pictures. Remedy: calibration: choose, batch or none"
        )
    unseen = [name for name, task in tasks.items() if task.sees and adapter_of(plan, name).pictures is None]
    backbone = info() if unseen else None
    if backbone is not None and not reads_pictures(plan, backbone):
        how = " in ranks (engine: deepspeed)" if backbone.reads_pictures else ""
        raise InputError(
            f"task {unseen[0]}: its rows have pictures, which backbone {plan.backbone} does not read{how}. Remedy: "
            "adapter: {pictures: {}}, a trained map of them; a backbone that reads pictures; or picture: hidden in the "
            "task, which leaves the text alone"
        )


def blocks(plan: Plan, task: Task, rows: Sequence[Example], backbone: BackboneInfo | None) -> list[int]:
    """Positions that some pictures of a task take before its texts where the backbone sees them by itself, else [].

    Raises:
        InputError: a picture that is gone, or that the backbone does not take.
    """
    if backbone is None or not task.sees or not reads_pictures(plan, backbone):
        return []
    distinct = {row.picture.sha256: row.picture for row in rows if row.picture}
    some = list(distinct.values())[:LOOKED_AT]
    return [len(backbone.tokens.picture_block(picture).ids) for picture in some]


def encoders_of(plan: Plan, tasks: Mapping[str, Task], here: bool = False) -> dict[str, PictureMap]:
    """What the picture encoders' files say that maps of a plan's adapters read, by the encoder's name.

    Args:
        here: fetch none; those that are not on this machine are left out.

    Raises:
        InputError: see `dept.backbones.encoder_files.looked_up`.
    """
    maps = {adapter_of(plan, name).pictures for name, task in tasks.items() if task.sees}
    finest = sorted((one for one in maps if one is not None and one.encoder), key=lambda one: one.grid)
    return {str(one.encoder): looked_up(one) for one in finest if not here or local_folder(str(one.encoder), WHAT)}


def adapter_of(plan: Plan, task: str) -> AdapterConfig:
    """The shape of dept's adapters for a task of a plan."""
    return plan.recipe(task).adapter if task in plan.targets else plan.adapter
