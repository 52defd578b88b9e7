"""Which rows a trial learns from, and the same as tokens for its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dept.batches.tokenise import ANSWER_TOKENS, Row, encode, encode_answers
from dept.config import AdapterConfig
from dept.trial import TrialSpec
from tasks.draws import few_shot, subset
from tasks.formatting import Example

if TYPE_CHECKING:
    from flows.execution.work import Workshop

Piece = tuple[str, Example]  # an example and the task it is of


def examples_of(shop: Workshop, spec: TrialSpec) -> tuple[list[Piece], list[Piece]]:
    """Training and validation rows of a trial: k shots and k more for a target, capped pools for a source.

    A multitask adapter takes as many rows of each of its sources, so that none outvotes the others.
    """
    if spec.shots is None and not spec.training.steps:  # an untrained adapter, or a source's tested as it is
        return [], []
    if spec.shots is not None:
        return drawn(shop, spec.task, spec.shots, spec.seed, spec.per_class)
    members = spec.members or (spec.task,)
    parts = {name: shop.splits[name] for name in members}
    most, check = spec.train_rows, spec.validation_rows
    if spec.members:
        most = min([len(part.train) for part in parts.values()] + ([most] if most else []))
        check = max(1, check // len(members)) if check else None
    training: list[Piece] = []
    validating: list[Piece] = []
    for name, part in parts.items():
        training += of_task(name, part.train if most is None else subset(part.train, most, spec.seed))
        validating += of_task(name, part.validation if check is None else subset(part.validation, check, spec.seed))
    return training, validating


def drawn(shop: Workshop, name: str, k: int, seed: int, per_class: bool) -> tuple[list[Piece], list[Piece]]:
    """k shots of a task and as many validation rows."""
    shots, validation = few_shot(shop.splits[name], k, seed, shop.tasks[name].strata, per_class)
    return of_task(name, shots), of_task(name, validation)


def rows_of(shop: Workshop, pieces: Sequence[Piece], shape: AdapterConfig) -> list[Row]:
    """Token rows of examples, in their order: label words to choose from, or the one answer to be learned."""
    rows: dict[int, Row] = {}
    by_task: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(pieces):
        by_task.setdefault(name, []).append(index)
    for name, members in by_task.items():
        task, examples = shop.tasks[name], [pieces[i][1] for i in members]
        texts = [example.text for example in examples]
        if task.scored:
            made = encode(shop.backbone.tokens, texts, task.words, [example.label for example in examples], shape)
        else:
            made = encode_answers(shop.backbone.tokens, texts, [e.target for e in examples], shape, ANSWER_TOKENS)
        rows |= dict(zip(members, made, strict=True))
    return [rows[index] for index in range(len(pieces))]


def of_task(name: str, examples: Sequence[Example]) -> list[Piece]:
    """Examples that are all of one task."""
    return [(name, example) for example in examples]
