"""Claim trials, train them as a stack, test them, record them: each trial once, whatever is killed meanwhile.

A trial is finished when its adapter file is durable, its MLflow run is closed and its ledger row says so, in that
order. No Prefect here: steps.py wraps this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_prompt, from_shots, from_source, from_text
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.engine.train import Result, Trial, train
from dept.trial import STACKED, TrialOutcome, TrialSpec
from flows.execution.baselines import work_baselines
from flows.execution.progress import bar
from flows.execution.record import load_adapter, manifest, outcome_of
from flows.execution.rows import Piece, examples_of, rows_of
from flows.execution.test import test
from infra.errors import InputError
from infra.settings import home
from registry.ledger.ledger import Ledger, owner_id
from registry.tracking import Tracker
from tasks.spec import Task
from tasks.splits import Splits

POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Engine:
    """How trials are trained: in this process (0 ranks) or by DeepSpeed over ranks, which load weights of `dtype`."""

    ranks: int = 0
    dtype: str | None = None


@dataclass
class Workshop:
    """What a flow run works with. Lives in one process; never crosses a Prefect task boundary.

    order: plan or retraining order. name: backbone as the order gives it.
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
    def mixtures(self) -> Path:
        """Where mixtures of source adapters lie, one folder per sha256."""
        return home() / "mixtures"

    @property
    def adapters(self) -> Path:
        """Where adapters lie, one folder per fingerprint."""
        return home() / "adapters"


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
            stacked = [spec for spec in mine if spec.method in STACKED]
            _train(shop, [spec for spec in stacked if _status(shop, spec) != "trained"], what, owner)
            test(shop, [spec for spec in stacked if _status(shop, spec) == "trained"], what, owner)
            work_baselines(shop, [spec for spec in mine if spec.method not in STACKED], what, owner)
            left = {fp: spec for fp, spec in left.items() if _status(shop, spec) not in ("finished", "failed")}
            if left and not mine:
                time.sleep(POLL_SECONDS)  # another process works on these
    for spec in specs:
        if _status(shop, spec) == "failed":
            row = shop.ledger.get(spec.fingerprint)
            shop.failed[spec.label] = str(row.error if row else "")
    return [shop.ledger.outcome(spec.fingerprint) for spec in specs if _status(shop, spec) == "finished"]


def _status(shop: Workshop, spec: TrialSpec) -> str:
    row = shop.ledger.get(spec.fingerprint)
    return row.status if row else "pending"


def _start(shop: Workshop, spec: TrialSpec, shots: Sequence[Piece]) -> Adapter:
    if spec.method == "in-context" and spec.init != "untrained":
        return from_shots(shop.backbone, spec.adapter, [(example.text, example.target) for _, example in shots])
    if spec.source_sha256 is None:
        return from_text(shop.backbone, spec.adapter, spec.prompt_text, spec.seed)
    source = find_source(shop, spec.source_sha256)
    if spec.init == "prompt-only":
        return from_prompt(source, spec.adapter, spec.seed)
    return from_source(source, spec.adapter)


def find_source(shop: Workshop, sha256: str) -> Adapter:
    """The adapter of this sha256: a source trial's, or a mixture of such.

    Raises:
        InputError: it is neither in the ledger nor among the mixtures.
    """
    if (mixture := shop.mixtures / sha256).is_dir():
        return Adapter.load(mixture)
    for row in shop.ledger.find(role="source"):
        if row.adapter_sha256 == sha256:
            return load_adapter(shop.backbone, shop.ledger.outcome(row.fingerprint))
    raise InputError(f"source adapter {sha256[:12]} is not in the ledger. Remedy: run the plan that trained it again")


def _train(shop: Workshop, specs: Sequence[TrialSpec], what: str, owner: str) -> None:
    if not specs:
        return
    by_key = {spec.fingerprint: spec for spec in specs}
    trials, expected = [], {}
    for spec in specs:
        pieces = examples_of(shop, spec)
        training, validation = (rows_of(shop, part, spec.adapter) for part in pieces)
        start = _start(shop, spec, pieces[0])
        trials.append(Trial(spec.fingerprint, start, spec.training, training, validation, spec.seed))
        expected[spec.fingerprint] = _expected_tokens(trials[-1])

    def record(result: Result) -> None:
        spec = by_key[result.key]
        trial = next(t for t in trials if t.key == result.key)
        shown.shrink(max(0.0, expected[result.key] - _spent_tokens(trial, result)))
        if result.failure is not None:
            shop.ledger.fail(result.key, result.failure, owner)
            return
        told = manifest(shop, spec, *examples_of(shop, spec))
        sha256 = result.adapter.save(shop.adapters / spec.fingerprint, **told)
        outcome = outcome_of(shop, spec, (*trial.rows, *trial.validation), result.state, sha256)
        outcome.peak_memory_mib = result.peak_memory_mib
        outcome.trainable = spec.adapter.trainable(shop.backbone.d) if spec.training.steps else 0
        shop.ledger.trained(result.key, outcome, owner)
        shop.trained.add(result.key)

    options = EngineOptions(checkpoint_folder=home() / "checkpoints")
    with bar(f"Training {len(trials)} {what}", sum(expected.values())) as shown:
        if shop.engine.ranks:
            from dept.distributed.launch import train_sharded

            train_sharded(
                trials,
                shop.name,
                ranks=shop.engine.ranks,
                dtype=shop.engine.dtype,
                on_result=record,
                on_tokens=shown.advance,
                options=options,
            )
        else:
            train(trials, shop.backbone, options, on_result=record, on_tokens=shown.advance)


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
