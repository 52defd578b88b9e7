"""Whether a backbone can do tasks whose rows have pictures, asked before any of these is fetched. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dept.backbones.describe import BackboneInfo
from dept.config import AdapterConfig
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.spec import Task


def reads_pictures(backbone: BackboneInfo) -> bool:
    """Whether a backbone reads pictures: what `BackboneInfo.reads_pictures` says, and no where it says nothing."""
    return bool(getattr(backbone, "reads_pictures", False))


def check_pictures(plan: Plan, tasks: Mapping[str, Task], info: Callable[[], BackboneInfo | None]) -> None:
    """Refuse tasks with pictures that nothing would see: neither the backbone nor a map of the adapters.

    Args:
        info: describes the backbone; None: not on this machine, so that nothing is known. Asked only where it counts.

    Raises:
        InputError: there is such a task; or the backbone cannot be described.
    """
    unseen = [name for name, task in tasks.items() if task.sees and adapter_of(plan, name).pictures is None]
    backbone = info() if unseen else None
    if backbone is not None and not reads_pictures(backbone):
        raise InputError(
            f"task {unseen[0]}: its rows have pictures, which backbone {plan.backbone} does not read. Remedy: "
            "adapter: {pictures: {}}, a trained map of them; a backbone that reads pictures; or picture: hidden in the "
            "task, which leaves the text alone"
        )


def adapter_of(plan: Plan, task: str) -> AdapterConfig:
    """The shape of dept's adapters for a task of a plan."""
    return plan.recipe(task).adapter if task in plan.targets else plan.adapter
