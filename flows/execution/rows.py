"""Which rows a trial learns from, and the same as tokens for its adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dept.adapters.picture_map import look
from dept.backbones.picture_encoder import encoder_of
from dept.batches.tokenise import Row, encode, encode_answers
from dept.config import AdapterConfig
from dept.trial import LINEAR, TrialSpec
from flows.execution.context import RunContext
from flows.planning.trials import together_hash
from infra.errors import InputError
from tasks.cut import answer_room
from tasks.draws import few_shot, rows_to_test, subset
from tasks.formatting import Example, render
from tasks.picture_reader import check_pictures
from tasks.pictures import Picture, PictureError, payload_of
from tasks.spec import Task
from tasks.splits import Splits

CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021 (arXiv 2102.09690), section 5: the mean over the three
TaskExample = tuple[str, Example]  # an example and the task it is of


def examples_of(context: RunContext, spec: TrialSpec) -> tuple[list[TaskExample], list[TaskExample]]:
    """Training and validation rows of a trial: k shots and k more (or the validation split) for a target, capped pools
    for a source.

    A multitask adapter takes as many rows of each of its sources, so that none outvotes the others. A refit learns from
    all of them, and nothing validates it.

    Raises:
        InputError: the rows are not those that the trial was planned with.
    """
    learns = spec.training.steps or spec.method in ("calibrated", *LINEAR)
    if spec.kind == "train" and spec.shots is None and not learns:
        return [], []  # an untrained adapter, or a source's tested as it is
    members = spec.members or (spec.task,)
    parts = {name: splits_of(context, spec, name) for name in members}
    if spec.shots is not None:
        mine, strata, own = parts[spec.task], context.tasks[spec.task].strata, spec.validation_rows is None
        shots, validation = few_shot(mine, spec.shots, spec.seed, strata, spec.per_class, checks=own)
        if spec.validation_rows:
            validation = subset(mine.validation, spec.validation_rows, spec.seed)
        if spec.refit:
            return of_task(spec.task, (*shots, *validation)), []
        return of_task(spec.task, shots), of_task(spec.task, validation)
    most, check = spec.train_rows, spec.validation_rows
    if spec.members:
        most = min([len(part.train) for part in parts.values()] + ([most] if most else []))
        check = max(1, check // len(members)) if check else check
    training: list[TaskExample] = []
    validating: list[TaskExample] = []
    for name, part in parts.items():
        training += of_task(name, part.train if most is None else subset(part.train, most, spec.seed))
        if check != 0:
            validating += of_task(name, part.validation if check is None else subset(part.validation, check, spec.seed))
    return ([*training, *validating], []) if spec.refit else (training, validating)


def splits_of(context: RunContext, spec: TrialSpec, name: str) -> Splits:
    """The rows of a trial's task.

    Raises:
        InputError: the task is not known here, or its rows have changed since the trial was planned.
    """
    if name not in context.splits:
        raise InputError(f"task {name}: not known to this run. Remedy: run the plan that names it")
    splits = context.splits[name]
    if spec.members:
        unknown = [member for member in spec.members if member not in context.splits]
        same = not unknown and together_hash(context.tasks, context.splits, spec.members) == spec.data_hash
    else:
        same = splits.data_hash == spec.data_hash
    if not same:
        whose = "rows of its sources" if spec.members else "its rows"
        raise InputError(
            f"task {spec.task}: {whose} have changed since the trial was planned. Remedy: run the plan again"
        )
    return splits


def tests_of(context: RunContext, spec: TrialSpec) -> Sequence[Example]:
    """The test rows of a trial, the same for every draw; none where it is not tested.

    Raises:
        InputError: see `splits_of`.
    """
    return rows_to_test(splits_of(context, spec, spec.task), spec.test_rows, spec.tested_on == "reserve")


def rows_of(
    context: RunContext, examples: Sequence[TaskExample], shape: AdapterConfig, continues: bool = False
) -> list[Row]:
    """Token rows of examples, in their order: label words to choose from, or the one answer to be learned.

    Args:
        continues: the prompt holds text that these go on from (in-context).

    Raises:
        InputError: a picture that is gone or cannot be read, or that leaves no positions for its text.
    """
    tokens = context.backbone.tokens
    rows: dict[int, Row] = {}
    by_task: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(examples):
        by_task.setdefault(name, []).append(index)
    for name, members in by_task.items():
        task, mine = context.tasks[name], [examples[i][1] for i in members]
        texts = [example.text for example in mine]
        reading: dict[str, Any] = {**cut_of(task), "continues": continues}
        reading["pictures"] = shown(context, task, mine, shape)
        if task.scored:
            made = encode(tokens, texts, task.words, [example.label for example in mine], shape, **reading)
        else:
            longest = room_of(context, name, shape)
            made = encode_answers(tokens, texts, [e.target for e in mine], shape, longest, **reading)
        rows |= dict(zip(members, made, strict=True))
    if seen := [row for row in rows.values() if row.seen]:  # a plan is checked by some pictures, and others are larger
        ends = (row.first + len(row.source) + max(map(len, row.candidates)) - 1 for row in seen)
        context.backbone.check_room(shape.m, max(ends))
    return [rows[index] for index in range(len(examples))]


def shown(
    context: RunContext, task: Task, examples: Sequence[Example], shape: AdapterConfig
) -> Sequence[Picture | None]:
    """The pictures that stand before these texts; none where the task hides them, or nobody sees any.

    Raises:
        InputError: one that is gone, has changed, or cannot be read.
    """
    if not sees(context, task, shape):
        return ()
    found = [example.picture for example in examples]
    there = [picture for picture in found if picture is not None]
    if shape.pictures is not None and shape.pictures.encoder:
        encoder_of(shape.pictures, context.backbone.device)
        _still_there(there)
        check_pictures(there)
    elif shape.pictures is not None:
        look(there, shape.pictures)
    return found


def sees(context: RunContext, task: Task, shape: AdapterConfig) -> bool:
    """Whether an adapter of this shape, or the backbone, sees the pictures of a task.

    Raises:
        InputError: the backbone was to see them by itself, and does not.
    """
    if not task.sees or shape.pictures is not None:
        return task.sees
    backbone = context.backbone
    if context.reads_pictures and not backbone.reads_pictures:
        raise InputError(
            f"backbone {backbone.name}: its files promise that it reads pictures, but here it reads none "
            f"({getattr(backbone, 'blind', '') or 'its processor is missing'}). Remedy: another backbone, "
            "adapter.pictures (a trained map of them), or picture: hidden in the task"
        )
    return backbone.reads_pictures


def unreadable(rows: Iterable[Row]) -> str:
    """Why a picture of some rows cannot be read any more; "" where all can."""
    try:
        _still_there(row.seen.picture for row in rows if row.seen)
    except PictureError as error:
        return str(error)
    return ""


def _still_there(pictures: Iterable[Picture]) -> None:
    """Raise PictureError for the first that is gone or has changed since its row was read."""
    for picture in {one.sha256: one for one in pictures}.values():
        payload_of(picture)


def neutral_rows(context: RunContext, spec: TrialSpec, continues: bool = False) -> list[Row]:
    """Content-free inputs in the template of a trial's task, where it may be calibrated by them.

    Args:
        continues: see `rows_of`.
    """
    if spec.calibration not in ("choose", "contextual") or spec.task not in context.tasks:
        return []
    task = context.tasks[spec.task]
    if sees(context, task, spec.adapter):
        return []  # nothing stands for a picture without content
    texts = [text for free in CONTENT_FREE if (text := render(task, dict.fromkeys(task.fields, free))).strip()]
    reading: dict[str, Any] = {**cut_of(task), "continues": continues}
    return encode(context.backbone.tokens, texts, task.words, None, spec.adapter, **reading)


def cut_of(task: Task) -> dict[str, Any]:
    """How texts of a task are read, as `dept.batches.tokenise` takes it and adapters' files say it."""
    chat = {"chat": True} if task.chat else {}
    return {"cut": task.cut, "template": task.template, "max_length": task.max_length, **chat}


def room_of(context: RunContext, name: str, shape: AdapterConfig) -> int:
    """Tokens for a free answer of a task."""
    task = context.tasks[name]
    return answer_room(task.answer_length, context.splits[name].answer_length, shape.s)


def of_task(name: str, examples: Sequence[Example]) -> list[TaskExample]:
    """Examples that are all of one task."""
    return [(name, example) for example in examples]
