"""The adapter that a trial starts from."""

from __future__ import annotations

from collections.abc import Sequence

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_prompt, from_shots, from_source, from_text
from dept.backbones.chat import in_chat
from dept.trial import TrialSpec
from flows.execution.adapters import find_adapter
from flows.execution.context import RunContext
from flows.execution.rows import TaskExample


def sources_of(context: RunContext, spec: TrialSpec) -> list[Adapter]:
    """The adapters that a trial starts from, mixes or is compared with; not the ensemble that it learns from.

    Raises:
        UnusableError: one is not in the ledger, or of another backbone.
        LostError: one is damaged; its own trial is pending again.
        InputError: the store does not answer.
    """
    return [find_adapter(context, sha256) for sha256 in spec.needed if sha256 != spec.teacher_sha256]


def start_of(
    context: RunContext, spec: TrialSpec, shots: Sequence[TaskExample], sources: Sequence[Adapter] = ()
) -> Adapter:
    """Vocabulary text, another adapter, its P alone, or the shots.

    Raises:
        InputError: shots that do not fit, or a source of another shape.
    """
    if spec.start == "shots":
        solved = [(example.text, example.target) for _, example in shots]
        chat = in_chat(context.backbone.tokens) if context.tasks[spec.task].chat else None
        return from_shots(context.backbone, spec.adapter, solved, chat)
    if spec.start == "text":
        return from_text(context.backbone, spec.adapter, spec.prompt_text, spec.seed)
    (source,) = sources
    if spec.start == "prompt":
        return from_prompt(source, spec.adapter, spec.seed)
    return from_source(source, spec.adapter, spec.seed)
