"""Open a run: check all that a user may have got wrong, then the stores. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dept.backbones.chat import in_chat
from dept.backbones.describe import BackboneInfo, describe
from dept.baselines.need_peft import need_peft
from dept.trial import LINEAR, LORA
from flows.execution.context import Engine, RunContext
from flows.execution.own_tasks import stored_rows
from flows.planning.backbone_cost import chat_of
from flows.planning.check import check
from flows.planning.encoders import check_encoder, read_as_letters
from flows.planning.pictures import LOOKED_AT, adapter_of, blocks, check_pictures, encoders_of, reads_pictures
from flows.planning.plan import Plan
from infra.errors import InputError
from registry.ledger import Ledger
from registry.store import Store
from registry.tracking import Tracker
from tasks.cut import answer_room
from tasks.spec import Task
from tasks.splits import Splits

_LOG = logging.getLogger(__name__)


def open_plan(plan: Plan) -> RunContext:
    """Check a plan before any training and open the stores; no run is begun.

    Raises:
        InputError: see `flows.planning.check.check`, `dept.backbones.describe`, `Ledger.open`, `Store.open`, `Tracker`;
            pictures for a backbone that reads none; words that the tokenizer does not tell apart; baselines that cannot
            be run here, or on these tasks.
    """
    tasks = plan.resolve_tasks()
    backbone = describe(plan.backbone, plan.dtype, plan.device)
    check_pictures(plan, tasks, lambda: backbone)
    encoders = encoders_of(plan, tasks)
    check_encoder(plan, tasks, backbone)
    for line in read_as_letters(tasks.values(), backbone):
        _LOG.warning(line)
    ledger = Ledger.open() if plan.stored else None  # else nothing is opened before all is checked
    splits = check(plan, stored_rows(store_of(ledger)) if ledger else None)
    backbone.check_room(plan.adapter.m, plan.adapter.s)
    for name, task in tasks.items():
        try:
            _check_tokens(plan, task, splits[name], backbone)
        except InputError as error:
            raise InputError(f"task {name}: {error}") from error
    check_methods(plan, tasks, backbone.tells_words)
    ledger = ledger or Ledger.open()
    return RunContext(
        order=plan,
        backbone_name=plan.backbone,
        backbone_id=backbone.backbone_id,
        d=backbone.d,
        dtype=backbone.dtype,
        device=plan.device,
        engine=Engine(plan.ranks if plan.engine == "deepspeed" else 0),
        tasks=tasks,
        splits=splits,
        ledger=ledger,
        store=store_of(ledger),
        tracker=Tracker(),
        room=backbone.positions,
        computed=backbone.computed,
        chat=chat_of(backbone, tasks.values()),
        tells_words=backbone.tells_words,
        hidden=backbone.hidden,
        reads_pictures=reads_pictures(plan, backbone),
        encoders=encoders,
    )


def _check_tokens(plan: Plan, task: Task, splits: Splits, backbone: BackboneInfo) -> None:
    """Refuse a task for whose prompts, texts or answers the backbone has no tokens, or no positions.

    Raises:
        InputError: so it is.
    """
    shape = adapter_of(plan, task.name)
    shape = shape if task.sees else shape.blind
    own = max(blocks(plan, task, splits.train[:LOOKED_AT], backbone), default=0)
    for method in plan.methods if task.name in plan.targets else ("dept",):
        if method in ("dept", "adept", "prompt-tuning", "calibrated"):  # others have no prompt, or make it fit
            asked = shape.of_method(method, backbone.d, backbone.positions)
            backbone.check_room(asked.m, asked.s + (asked.pictures.positions if asked.pictures else own))
    tokens = in_chat(backbone.tokens) if task.chat else backbone.tokens
    if task.scored:
        longest = max(map(len, tokens.encode_words(task.words)))
    else:
        longest = answer_room(task.answer_length, splits.answer_length, shape.s)
    backbone.check_answers(longest)


def store_of(ledger: Ledger) -> Store:
    """The store of a ledger's adapters. An empty one is refused where the ledger knows better: all would be made again.

    Raises:
        InputError: $DEPT_STORE names a place without any adapter, though trials have left some.
    """
    store = Store.open()
    if store.is_bare():
        done = ledger.find(kind="train", status="finished", newest_first=True, limit=1, outcomes=False)
        if done and (done[0].adapter_key or "").count("/") > 1:  # not of 0.1.0, which kept them in the home
            raise InputError(
                f"store {store.url}: it holds no adapter, but the ledger's trials have left some. Remedy: mount it, or "
                "check DEPT_STORE; if its files are lost, make a folder `adapters` there, and the trials are done again"
            )
    return store


def check_methods(plan: Plan, tasks: Mapping[str, Task], tells_words: bool = True) -> None:
    """Refuse baselines that cannot be run here, or on these tasks.

    Raises:
        InputError: peft is missing, or a target is answered by generation, which baselines do not do.
    """
    if tells_words:  # else heads tell numbers as well, as so many classes
        check_heads(plan, tasks)
    baselines = [method for method in plan.methods if method in (*LORA, "full")]
    if baselines and plan.engine == "deepspeed":
        raise InputError(f"methods: {baselines[0]} needs the whole backbone in one process. Remedy: engine: local")
    if any(method in LORA for method in baselines):
        need_peft()
    linear = [method for method in plan.methods if method in LINEAR]
    written = [name for name in plan.targets if not tasks[name].scored]
    if (baselines or linear) and written:
        raise InputError(
            f"methods: {(baselines + linear)[0]} is for tasks whose answers are scored; {written[0]} is answered by "
            "generation"
        )
    numbers = [name for name in plan.targets if tasks[name].grid]
    if linear and numbers:
        raise InputError(f"methods: {linear[0]} tells classes apart; {numbers[0]} asks for a number")


def check_heads(plan: Plan, tasks: Mapping[str, Task]) -> None:
    """Refuse heads over what is no class.

    Raises:
        InputError: adapters of a target are to have a head, but its answers are written, or numbers.
    """
    for name in plan.targets if {"dept", "adept"} & set(plan.methods) else ():
        answers = plan.recipe(name).adapter.answers
        if answers != "words" and (not tasks[name].scored or tasks[name].grid):
            how = "asks for a number" if tasks[name].scored else "is answered by generation"
            raise InputError(
                f"adapter: answers: {answers} is a head that tells classes apart; {name} {how}. Remedy: answers: words "
                "(for this target alone: in groups)"
            )
