"""What a plan lays down for a task's texts: the backbone that counts their tokens, and the room s of its adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.planning.backbone_cost import local_folder
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan, rooted
from infra.errors import InputError
from infra.names import expanded
from tasks.yaml_file import read_yaml


@dataclass(frozen=True)
class Planned:
    """s: room of text and answer; backbone: name or folder. None: no plan says. words: what labels are answered by.

    note: why a plan's backbone counts nothing, "" where it does.
    """

    s: int | None = None
    backbone: str | None = None
    words: Literal["words", "paper"] = "words"
    note: str = ""


def planned(what: str, task: str, plan: str | None = None) -> Planned:
    """What the plan says that `--plan`, PLAN:NAME, or a FILE.yaml with own_tasks names. Nothing is fetched for it.

    Args:
        what: as `flows.planning.check_task.named` takes it.
        plan: name or path of a plan; it goes before the one that `what` names.

    Raises:
        InputError: a plan that cannot be read; of FILE.yaml one that is not finished is taken as far as it goes.
    """
    name = plan
    if name is None and Path(what).suffix not in (".yaml", ".yml"):
        name = what.rpartition(":")[0] or None
        if name is None:
            return Planned()
    if name is not None:
        return _of(load_plan(name), task)
    body = read_yaml(expanded(what))
    if not isinstance(body, dict) or "own_tasks" not in body:
        return Planned()
    if "targets" in body:
        try:
            return _of(load_plan(what), task)
        except InputError:
            pass  # `dept run` says what is wrong with the plan; here its tasks are looked at
    shape, backbone = body.get("adapter"), body.get("backbone")
    s = shape.get("s") if isinstance(shape, dict) else None
    return _in_reach(
        s if isinstance(s, int) and s > 1 else None,
        rooted(backbone, expanded(what).parent) if isinstance(backbone, str) and backbone else None,
        "paper" if body.get("verbalizer") == "paper" else "words",
    )


def _of(plan: Plan, task: str) -> Planned:
    return _in_reach(plan.recipe(task).adapter.s, plan.backbone, plan.verbalizer)


def _in_reach(s: int | None, backbone: str | None, words: Literal["words", "paper"]) -> Planned:
    if backbone is None or local_folder(backbone) is not None:
        return Planned(s, backbone, words)
    return Planned(s, None, words, f"backbone {backbone} of the plan is not on this machine, so words are counted")
