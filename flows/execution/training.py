"""Train claimed trials as one stack, probes among them; each is recorded as soon as it leaves the stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.engine.state import Point, Result, State, Trial
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.adapters import UnusableError
from flows.execution.context import RunContext
from flows.execution.distilling import Teacher, taught_rows, teacher_of
from flows.execution.heads import Heads, headed
from flows.execution.lease import Lease
from flows.execution.progress import bar
from flows.execution.record import close, fail, keep, key_of, manifest, outcome_of, provenance
from flows.execution.rows import TaskExample, examples_of, neutral_rows, rows_of, unreadable
from flows.execution.starts import sources_of, start_of
from infra.errors import InputError, written
from infra.settings import home
from registry.ledger import Claim
from tasks.pictures import PictureError

CHECKPOINT_SECONDS = 30.0
Tested = tuple[Claim, TrialOutcome]


@dataclass
class Prepared:
    """A trial with its rows and its start."""

    claim: Claim
    trial: Trial
    examples: tuple[list[TaskExample], list[TaskExample]]
    likeness: list[torch.Tensor] = field(default_factory=list)  # mean prompts that a probe is compared with
    teacher: Teacher | None = None


def train_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> list[Tested]:
    """Train, and return those that are to be tested: their adapters are durable.

    Trials whose pictures are gone fail; the others are trained on without them, from their checkpoints.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: an adapter that one starts from is damaged; its trial is pending again.
        InputError: a full disk, or a store that does not answer.
    """
    known: Heads = {}
    prepared = {p.trial.key: p for claim in claims if (p := _prepare(context, lease, claim, known)) is not None}
    trained: list[Tested] = []
    still = dict(prepared)  # without result
    losses: dict[str, float] = {}  # of those in the stack, as they are now
    if not prepared:
        return trained

    def handed_over(mine: Prepared) -> None:
        if (begun := live.hand_over(mine.trial.key)) is not None:
            context.begun[key_of(mine.claim)] = begun

    def record(result: Result) -> None:
        mine = still.pop(result.key)
        losses.pop(result.key, None)
        handed_over(mine)
        shown.shrink(max(0.0, _expected(mine.trial) - _spent(mine.trial, result.state)))
        done = _record(context, lease, mine, result)
        trained.extend([done] if done else [])
        lease.progress()

    def told(tokens: int) -> None:
        shown.advance(tokens)
        lease.progress()

    def pointed(point: Point) -> None:
        live.point(*point)
        if point.curve == "loss":
            losses[point.key] = point.value
            shown.note(loss=sum(losses.values()) / len(losses))

    def restored(key: str, state: State) -> None:
        live.restored(key, vars(state), state.seconds)
        shown.restore(_spent(prepared[key].trial, state))

    trials = [mine.trial for mine in prepared.values()]
    folder = home() / "checkpoints"
    options = EngineOptions(checkpoint_folder=folder, checkpoint_seconds=CHECKPOINT_SECONDS)
    train = {p.trial.key: (p.claim.spec, p.claim.attempt) for p in prepared.values() if p.claim.spec.kind == "train"}
    live = context.tracker.live(context.parent_run, train, provenance(context))
    try:
        with bar(_title(claims), sum(map(_expected, trials)), "tokens") as shown, written(folder):
            context.backbone.train(
                trials, options, on_result=record, on_tokens=told, on_restored=restored, on_point=pointed
            )
    except PictureError:
        gone = {
            key: why for key, mine in still.items() if (why := unreadable((*mine.trial.rows, *mine.trial.validation)))
        }
        if not gone:
            raise
        for key, why in gone.items():
            mine = still.pop(key)
            handed_over(mine)
            fail(context, lease, mine.claim, why)
    finally:
        live.close()
    return trained + train_claims(context, lease, [mine.claim for mine in still.values()])


def _prepare(context: RunContext, lease: Lease, claim: Claim, known: Heads) -> Prepared | None:
    """Rows and start of a trial; one that cannot be made is failed, with the reason."""
    spec = claim.spec
    lease.progress()
    try:
        sources, teacher = sources_of(context, spec), teacher_of(context, spec)
    except UnusableError as error:
        fail(context, lease, claim, str(error))
        return None
    try:
        examples = examples_of(context, spec)
        if teacher is not None:
            examples = examples[0], teacher.unseen(examples[1])
        continues = spec.start == "shots"
        training, validation = (rows_of(context, part, spec.adapter, continues) for part in examples)
        start = start_of(context, spec, examples[0], sources)
        start = headed(context, spec, start, training, validation, known, lease.progress)
        neutral = neutral_rows(context, spec, continues)
        if teacher is not None:
            training = taught_rows(context, teacher, spec, examples[0], training, lease.progress)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return None
    order = 0 if spec.kind == "probe" else spec.seed  # of the data: probes of all draws go through it alike
    how = (spec.calibration, neutral, spec.readout)
    trial = Trial(claim.fingerprint, start, spec.training, training, validation, order, *how)
    likeness = [source.prompt.detach().mean(0) for source in sources] if spec.sources else []
    return Prepared(claim, trial, examples, likeness, teacher)


def _record(context: RunContext, lease: Lease, mine: Prepared, result: Result) -> Tested | None:
    claim, spec, trial = mine.claim, mine.claim.spec, mine.trial
    if result.failure is not None:
        fail(context, lease, claim, result.failure)
        return None
    outcome = outcome_of(context, spec, (*trial.rows, *trial.validation), result.state)
    outcome.peak_memory_mib = result.peak_memory_mib
    outcome.trainable = _trainable(context, spec)
    if spec.kind == "probe":
        if mine.likeness:
            prompt, theirs = result.adapter.prompt.detach().mean(0), torch.stack(mine.likeness)
            outcome.extra["similarity"] = torch.cosine_similarity(prompt[None], theirs).tolist()
        close(context, lease, [(claim, outcome)])
        return None
    told = manifest(context, spec, *mine.examples)
    if mine.teacher is not None:
        told["drawn"] = mine.teacher.seen(told["drawn"])
        outcome.validation = outcome.validation or mine.teacher.validation  # no row is left that could tell more
    held = keep(context, lease, claim, outcome, lambda folder: result.adapter.save(folder, **told))
    return (claim, outcome) if held else None


def _trainable(context: RunContext, spec: TrialSpec) -> int:
    """Numbers that were fitted; without steps those of its head alone."""
    labels = len(context.tasks[spec.task].words) if spec.adapter.reads else 0
    whole = spec.adapter.trainable(context.d, labels, context.hidden)
    return whole if spec.training.steps else whole - spec.adapter.trainable(context.d)


def _title(claims: Sequence[Claim]) -> str:
    probes = sum(claim.spec.kind == "probe" for claim in claims)
    trained = [claim.spec for claim in claims if claim.spec.kind == "train"]
    roles = sorted({"target" if spec.searched else spec.role for spec in trained})
    words = {"source": "sources", "target": "targets", "search": "rate trials", "challenger": "challengers"}
    named = [words.get(role, role) for role in roles] + (["probes"] if probes else [])
    return f"Training {len(claims)} {' and '.join(named)}"


def _expected(trial: Trial) -> float:
    config, mean = trial.config, _mean_length(trial.rows)
    checks = 1 + -(-config.steps // config.eval_every)
    return config.steps * trial.batch_size * mean + checks * sum(row.length for row in trial.validation)


def _spent(trial: Trial, state: State) -> float:
    checks = len(state.validation_curve) * sum(row.length for row in trial.validation)
    return state.step * trial.batch_size * _mean_length(trial.rows) + checks


def _mean_length(rows: Sequence[Row]) -> float:
    return sum(len(row.source) for row in rows) / max(1, len(rows))
