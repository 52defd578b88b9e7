"""What a plan may ask of an encoder, said before any work. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dept.backbones.describe import BackboneInfo
from dept.batches.unmask import MASK
from dept.trial import LORA
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.spec import Task

_BY_WORDS = (*LORA, "full", "calibrated")  # methods whose labels are told by words alone


def check_encoder(plan: Plan, tasks: Mapping[str, Task], backbone: BackboneInfo) -> None:
    """Refuse what an encoder cannot do: write, continue shots, be shared by ranks, fill in two places; without a
    masked-LM head tell words.

    Raises:
        InputError: so it is.
    """
    if backbone.family != "encoder":
        return
    for name, task in tasks.items():
        if task.template.count(MASK) > 1:
            raise InputError(
                f"task {name}: its template has {MASK} {task.template.count(MASK)} times, and an answer stands in one "
                "place. Remedy: name it once"
            )
    of = f"backbone {backbone.name} is an encoder"
    if plan.engine == "deepspeed":
        raise InputError(f"engine: deepspeed: {of}, which ranks do not share. Remedy: engine: local")
    if "in-context" in plan.methods:
        raise InputError(
            f"methods: in-context: {of}, which continues no shots. Remedy: other methods, or a causal model"
        )
    for name, task in tasks.items():
        if not task.scored:
            raise InputError(
                f"task {name}: {of}, which writes no answers. Remedy: a causal or encoder-decoder model, or a task of "
                "labels or numbers"
            )
    if backbone.tells_words:
        return
    lacks = "mask token" if backbone.fills_in else "masked-LM head"
    alone = f"backbone {backbone.name} has no {lacks}, so trained heads alone tell labels"
    remedy = "Remedy: take it out, or a backbone saved with one (...ForMaskedLM)"
    if methods := [method for method in plan.methods if method in _BY_WORDS]:
        raise InputError(f"methods: {methods[0]}: {alone}. {remedy}")
    if shared := [one for one in plan.strategies if one in ("mixture", "multitask") and plan.adapts]:
        raise InputError(f"strategies: {shared[0]}: {alone}, and tasks share none. {remedy}")
    if plan.zero_shot:
        raise InputError(f"zero_shot: {alone}, and tasks share none. {remedy}")


def read_as_letters(tasks: Iterable[Task], backbone: BackboneInfo) -> list[str]:
    """One line where templates name the mask's place and the backbone is no encoder; else none."""
    named = sorted(task.name for task in tasks if MASK in task.template)
    if not named or backbone.family == "encoder":
        return []
    return [
        f"{MASK} in the template of {', '.join(named)}: backbone {backbone.name} is no encoder and reads it as "
        "letters. Remedy: a template without it, or an encoder"
    ]
