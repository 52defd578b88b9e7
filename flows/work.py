"""Claim trials, train them as a stack, test them, record them: each trial once, whatever is killed meanwhile.

A trial is finished when its adapter file is durable, its MLflow run is closed and its ledger row says so, in that
order. No Prefect here: steps.py wraps this.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from dept.adapter import Adapter
from dept.backbone import Backbone
from dept.batching import Row, encode
from dept.evaluate import score_rows, summarise
from dept.initialise import from_source, from_text
from dept.stack import Tensors
from dept.train import Result, Trial, train
from dept.trial import TrialOutcome, TrialSpec
from flows.progress import bar
from registry.ledger import Ledger, owner_id
from registry.tracking import Tracker
from tasks.errors import InputError
from tasks.formatting import Example
from tasks.home import home
from tasks.spec import Task
from tasks.splits import Splits, few_shot, subset

TEST_GROUP = 4  # trials tested in one mixed batch; a kill loses at most this many tests, never a training
POLL_SECONDS = 2.0
Key = TypeVar("Key")


@dataclass(frozen=True)
class Engine:
    """How trials are trained: in this process (0 ranks) or by DeepSpeed over ranks."""

    ranks: int = 0


@dataclass
class Workshop:
    """What a flow run works with. Lives in one process; never crosses a Prefect task boundary.

    order: plan or retraining order; its digest names the checkpoints. name: backbone as the order gives it.
    """

    order: BaseModel
    name: str
    engine: Engine
    backbone: Backbone
    tasks: Mapping[str, Task]
    splits: dict[str, Splits]
    ledger: Ledger
    tracker: Tracker
    parent_run: str = ""
    trained: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def adapters(self) -> Path:
        """Where adapters lie, one folder per fingerprint."""
        return home() / "adapters"

    def stack_name(self, what: str) -> str:
        """Folder of a stack's checkpoint: the same for this plan's next run, which goes on from it."""
        return hashlib.sha256(f"{self.order.model_dump_json()}:{what}".encode()).hexdigest()[:16]

    def rows(self, spec: TrialSpec, examples: Sequence[Example]) -> list[Row]:
        """Examples as token rows for the adapter of a trial."""
        return encode(
            self.backbone,
            [e.text for e in examples],
            self.tasks[spec.task].words,
            [e.label for e in examples],
            spec.adapter,
        )


def examples_of(shop: Workshop, spec: TrialSpec) -> tuple[Sequence[Example], Sequence[Example]]:
    """Training and validation rows of a trial: k shots and k more for a target, capped pools for a source."""
    splits = shop.splits[spec.task]
    if spec.init == "untrained":
        return (), ()
    if spec.shots is not None:
        return few_shot(splits, spec.shots, spec.seed, len(shop.tasks[spec.task].labels))
    training = splits.train if spec.train_rows is None else subset(splits.train, spec.train_rows, spec.seed)
    validation = splits.validation
    return training, validation if spec.validation_rows is None else subset(validation, spec.validation_rows, spec.seed)


def work(shop: Workshop, specs: Sequence[TrialSpec], what: str) -> list[TrialOutcome]:
    """Bring every trial to its end and return the outcomes of those that did not fail.

    Trials that the ledger holds as finished are taken from there. Those that another live process works on are waited
    for. What a dead process left is taken over.

    Raises:
        InputError: the disk is full, a store does not answer, an adapter file is damaged.
    """
    owner = owner_id()
    shop.ledger.add(specs)
    left = {spec.fingerprint: spec for spec in specs}
    with shop.ledger.beating(owner):
        while left:
            mine = [spec for spec in left.values() if shop.ledger.claim(spec.fingerprint, owner, retry_failed=True)]
            _train(shop, [spec for spec in mine if _status(shop, spec) != "trained"], what, owner)
            _test(shop, [spec for spec in mine if _status(shop, spec) == "trained"], what, owner)
            left = {fp: spec for fp, spec in left.items() if _status(shop, spec) not in ("finished", "failed")}
            if left and not mine:
                time.sleep(POLL_SECONDS)  # another process works on these
    for spec in specs:
        if _status(shop, spec) == "failed":
            row = shop.ledger.get(spec.fingerprint)
            shop.failed[spec.label] = str(row.error if row else "")
    return [shop.ledger.outcome(spec.fingerprint) for spec in specs if _status(shop, spec) == "finished"]


def best_sources(
    shop: Workshop, sources: Sequence[TrialOutcome], wanted: Mapping[Key, tuple[Task, Sequence[Example]]]
) -> dict[Key, TrialOutcome]:
    """Per key the source whose adapter, untrained, scores best on the key's validation rows: true few-shot.

    Those rows belong to the k-shot budget of the target. All sources and rows are scored in one mixed batch.

    Raises:
        InputError: a damaged adapter, or one of another backbone.
    """
    shape = sources[0].spec.adapter
    rows = {
        key: encode(shop.backbone, [e.text for e in examples], task.words, [e.label for e in examples], shape)
        for key, (task, examples) in wanted.items()
    }
    items = [(i, row) for part in rows.values() for i in range(len(sources)) for row in part]
    if len(sources) == 1 or not items:
        return dict.fromkeys(wanted, sources[0])
    tensors = Tensors.of([load_adapter(shop.backbone, outcome) for outcome in sources], shop.backbone.device)
    with bar("Choosing sources", sum(row.length for _, row in items)) as shown:
        scores = score_rows(shop.backbone, tensors, items, progress=shown.advance)
    chosen = {}
    for key, part in rows.items():
        ranks = []
        for _ in sources:
            found, scores = summarise(scores[: len(part)], part), scores[len(part) :]
            ranks.append((found["accuracy"], -found["loss"]))
        chosen[key] = sources[max(range(len(sources)), key=ranks.__getitem__)]
    return chosen


def load_adapter(backbone: Backbone, outcome: TrialOutcome) -> Adapter:
    """The adapter of a trial, checked against the ledger's sha256 and the backbone.

    Raises:
        InputError: missing, damaged, altered, or of another backbone.
    """
    adapter = Adapter.load(outcome.adapter_folder)
    if adapter.sha256 != outcome.adapter_sha256:
        raise InputError(
            f"adapter {outcome.adapter_folder}: its sha256 is not the one in the ledger. Remedy: restore "
            "the folder from the trial's MLflow run (artifact `adapter`)"
        )
    adapter.check_fits(backbone.name, backbone.weights_id, backbone.d)
    return adapter


def _status(shop: Workshop, spec: TrialSpec) -> str:
    row = shop.ledger.get(spec.fingerprint)
    return row.status if row else "pending"


def _start(shop: Workshop, spec: TrialSpec) -> Adapter:
    if spec.source_sha256 is None:
        return from_text(shop.backbone, spec.adapter, spec.prompt_text, spec.seed)
    for row in shop.ledger.find(task=spec.source_task, role="source"):
        if row.adapter_sha256 == spec.source_sha256:
            return from_source(load_adapter(shop.backbone, shop.ledger.outcome(row.fingerprint)), spec.adapter)
    raise InputError(f"trial {spec.label}: its source adapter {spec.source_sha256[:12]} is not in the ledger")


def _train(shop: Workshop, specs: Sequence[TrialSpec], what: str, owner: str) -> None:
    if not specs:
        return
    by_key = {spec.fingerprint: spec for spec in specs}
    trials, expected = [], {}
    for spec in specs:
        training, validation = (shop.rows(spec, rows) for rows in examples_of(shop, spec))
        trials.append(Trial(spec.fingerprint, _start(shop, spec), spec.training, training, validation, spec.seed))
        expected[spec.fingerprint] = _expected_tokens(trials[-1])

    def record(result: Result) -> None:
        spec = by_key[result.key]
        trial = next(t for t in trials if t.key == result.key)
        shown.shrink(max(0.0, expected[result.key] - _spent_tokens(trial, result)))
        if result.failure is not None:
            shop.ledger.fail(result.key, result.failure, owner)
            return
        outcome = _save(shop, spec, trial, result)
        shop.ledger.trained(result.key, outcome, owner)
        shop.trained.add(result.key)

    checkpoints = home() / "checkpoints" / shop.stack_name(what)
    with bar(f"Training {len(trials)} {what}", sum(expected.values())) as shown:
        if shop.engine.ranks:
            from dept.launch import train_sharded

            train_sharded(
                trials,
                shop.name,
                ranks=shop.engine.ranks,
                on_result=record,
                on_tokens=shown.advance,
                checkpoint_folder=checkpoints,
            )
        else:
            train(trials, shop.backbone, on_result=record, on_tokens=shown.advance, checkpoint_folder=checkpoints)


def _save(shop: Workshop, spec: TrialSpec, trial: Trial, result: Result) -> TrialOutcome:
    task, state = shop.tasks[spec.task], result.state
    folder = shop.adapters / spec.fingerprint
    digest = result.adapter.save(
        folder,
        fingerprint=spec.fingerprint,
        backbone=shop.name,
        backbone_id=spec.backbone_id,
        dtype=str(shop.backbone.dtype).removeprefix("torch."),
        task=spec.task,
        task_version=spec.task_version,
        template=task.template,
        labels=list(task.labels),
        words=list(task.words),
        source_task=spec.source_task,
        source_sha256=spec.source_sha256,
    )
    return TrialOutcome(
        spec=spec,
        adapter_folder=folder,
        adapter_sha256=digest,
        best_step=state.best_step,
        steps_done=state.step,
        validation=state.best,
        loss_curve=state.loss_curve,
        validation_curve=state.validation_curve,
        seconds=state.seconds,
        tokens=state.tokens,
        tokens_per_second=state.tokens / state.seconds if state.tokens else 0,
        peak_memory_mib=result.peak_memory_mib,
        trainable=spec.adapter.trainable(shop.backbone.d),
        cut_rows=sum(row.cut for row in (*trial.rows, *trial.validation)),
        padding=state.padded / state.tokens if state.tokens else 1.0,
    )


def _test(shop: Workshop, specs: Sequence[TrialSpec], what: str, owner: str) -> None:
    rows = {spec.fingerprint: shop.rows(spec, subset(shop.splits[spec.task].test, spec.test_rows, 0)) for spec in specs}
    if not specs:
        return
    with bar(f"Testing {len(specs)} {what}", sum(row.length for part in rows.values() for row in part)) as shown:
        for start in range(0, len(specs), TEST_GROUP):
            group = specs[start : start + TEST_GROUP]
            outcomes = [shop.ledger.outcome(spec.fingerprint) for spec in group]
            tensors = Tensors.of([load_adapter(shop.backbone, outcome) for outcome in outcomes], shop.backbone.device)
            items = [(i, row) for i, spec in enumerate(group) for row in rows[spec.fingerprint]]
            scores = score_rows(shop.backbone, tensors, items, progress=shown.advance)
            for spec, outcome in zip(group, outcomes, strict=True):
                mine = rows[spec.fingerprint]
                outcome.test, scores = summarise(scores[: len(mine)], mine), scores[len(mine) :]
                outcome.cut_rows += sum(row.cut for row in mine)
                run_id = shop.tracker.log_trial(shop.parent_run, outcome)
                shop.ledger.finish(spec.fingerprint, run_id, outcome, owner)


def _expected_tokens(trial: Trial) -> float:
    config, mean = trial.config, _mean_length(trial.rows)
    checks = 1 + -(-config.steps // config.eval_every)
    return config.steps * trial.batch_size * mean + checks * sum(row.length for row in trial.validation)


def _spent_tokens(trial: Trial, result: Result) -> float:
    return result.state.step * trial.batch_size * _mean_length(trial.rows) + len(result.state.validation_curve) * sum(
        row.length for row in trial.validation
    )


def _mean_length(rows: Sequence[Row]) -> float:
    return sum(len(row.source) for row in rows) / max(1, len(rows))
