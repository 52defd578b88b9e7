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

from pydantic import BaseModel

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_prompt, from_shots, from_source, from_text
from dept.backbones.backbone import Backbone
from dept.batches.batching import Row
from dept.engine.train import Result, Trial, train
from dept.trial import STACKED, Dtype, TrialOutcome, TrialSpec
from flows.execution.baselines import work_rivals
from flows.execution.progress import bar
from flows.execution.record import kept, load_adapter, manifest, outcome_of
from flows.execution.rows import Piece, examples_of, rows_of
from flows.execution.test import test
from flows.planning.trials import Ground
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home, settings
from registry.ledger import Claim, Ledger
from registry.store import Store
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

    order: plan or retraining order; its digest names the checkpoints. name: backbone as the order gives it.
    """

    order: BaseModel
    name: str
    engine: Engine
    backbone: Backbone
    tasks: Mapping[str, Task]
    splits: dict[str, Splits]
    ledger: Ledger
    store: Store
    tracker: Tracker
    parent_run: str = ""
    trained: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    run_id: str = ""
    renewed: float = 0.0

    @property
    def mixtures(self) -> Path:
        """Where mixtures of source adapters lie, one folder per sha256."""
        return home() / "mixtures"

    def renew(self, claims: Sequence[Claim]) -> None:
        """Say that work goes on, now and then."""
        if time.monotonic() - self.renewed > settings().lease_seconds / 6:
            self.ledger.renew(claims)
            self.renewed = time.monotonic()

    def stack_name(self, what: str) -> str:
        """Folder of a stack's checkpoint: the same for this plan's next run, which goes on from it."""
        return hashlib.sha256(f"{self.order.model_dump_json()}:{what}".encode()).hexdigest()[:16]


def ground_of(tasks: Mapping[str, Task], splits: Mapping[str, Splits], backbone: Backbone) -> Ground:
    """What trials on this backbone stand on."""
    dtype: Dtype = str(backbone.dtype).removeprefix("torch.")  # type: ignore[assignment]
    return Ground(tasks, splits, backbone.weights_id, backbone.d, dtype)


def work(shop: Workshop, specs: Sequence[TrialSpec], what: str) -> list[TrialOutcome]:
    """Bring every trial to its end and return the outcomes of those that did not fail.

    Trials that the ledger holds as finished are taken from there. Those that another live process works on are waited
    for. What a dead process left is taken over.

    Raises:
        InputError: the disk is full, a store does not answer, an adapter file is damaged.
    """
    shop.run_id = shop.run_id or shop.ledger.begin_run(what, {})
    shop.ledger.add(specs, shop.run_id, what)
    while shop.ledger.left(shop.run_id, what):
        mine = shop.ledger.claim(process_id(), max(1, len(specs)), run_id=shop.run_id, stage=what)
        try:
            stacked = [claim for claim in mine if claim.spec.method in STACKED]
            _train(shop, [claim for claim in stacked if claim.status != "trained"], what)
            test(shop, [claim for claim in stacked if _status(shop, claim.spec) == "trained"], what)
            work_rivals(shop, [claim for claim in mine if claim.spec.method not in STACKED], what)
        finally:
            shop.ledger.release(mine)
        if not mine:
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
    if spec.start == "shots":
        return from_shots(shop.backbone, spec.adapter, [(example.text, example.target) for _, example in shots])
    if spec.source_sha256 is None:
        return from_text(shop.backbone, spec.adapter, spec.prompt_text, spec.seed)
    source = find_source(shop, spec.source_sha256)
    if spec.start == "prompt":
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
            return load_adapter(shop.backbone, shop.ledger.outcome(row.fingerprint), shop.store)
    raise InputError(f"source adapter {sha256[:12]} is not in the ledger. Remedy: run the plan that trained it again")


def _train(shop: Workshop, claims: Sequence[Claim], what: str) -> None:
    if not claims:
        return
    by_key = {claim.fingerprint: claim for claim in claims}
    specs = [claim.spec for claim in claims]
    trials, expected = [], {}
    for spec in specs:
        pieces = examples_of(shop, spec)
        training, validation = (rows_of(shop, part, spec.adapter) for part in pieces)
        start = _start(shop, spec, pieces[0])
        trials.append(Trial(spec.fingerprint, start, spec.training, training, validation, spec.seed))
        expected[spec.fingerprint] = _expected_tokens(trials[-1])

    def record(result: Result) -> None:
        claim = by_key[result.key]
        spec = claim.spec
        trial = next(t for t in trials if t.key == result.key)
        shown.shrink(max(0.0, expected[result.key] - _spent_tokens(trial, result)))
        if result.failure is not None:
            shop.ledger.fail(claim, result.failure)
            return
        told = manifest(shop, spec, *examples_of(shop, spec))
        with kept(shop, claim) as folder:
            sha256 = result.adapter.save(folder, **told)
        outcome = outcome_of(shop, claim, (*trial.rows, *trial.validation), result.state, sha256)
        outcome.peak_memory_mib = result.peak_memory_mib
        outcome.trainable = spec.adapter.trainable(shop.backbone.d) if spec.training.steps else 0
        shop.ledger.trained(claim, outcome)
        shop.trained.add(result.key)

    def advance(tokens: int) -> None:
        shown.advance(tokens)
        shop.renew(claims)

    checkpoints = home() / "checkpoints" / shop.stack_name(what)
    with bar(f"Training {len(trials)} {what}", sum(expected.values())) as shown:
        if shop.engine.ranks:
            from dept.distributed.launch import train_sharded

            train_sharded(
                trials,
                shop.name,
                ranks=shop.engine.ranks,
                dtype=shop.engine.dtype,
                on_result=record,
                on_tokens=advance,
                checkpoint_folder=checkpoints,
            )
        else:
            train(trials, shop.backbone, on_result=record, on_tokens=advance, checkpoint_folder=checkpoints)


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
