"""Search the recipe of a draw by cross-validation on its rows: candidates in one stack, baselines one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from dept.baselines.search import search_baseline
from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.engine.evaluate import Raw
from dept.engine.halving import Found
from dept.engine.memory import peak_memory_mib
from dept.engine.state import Trial
from dept.engine.together import decide
from dept.trial import LINEAR, STACKED, Search, TrialOutcome, TrialSpec
from flows.execution.adapters import UnusableError, find_adapter
from flows.execution.context import RunContext
from flows.execution.heads import Heads, headed
from flows.execution.lease import Lease
from flows.execution.linear_search import Fold, beside, search_linear
from flows.execution.progress import bar
from flows.execution.record import close, fail
from flows.execution.rows import examples_of, rows_of
from flows.execution.shots import shown_shots
from flows.execution.starts import start_of
from flows.execution.training import CHECKPOINT_SECONDS
from infra.errors import InputError, written
from infra.settings import home
from registry.ledger import Claim
from tasks.pictures import PictureError


def search_claims(context: RunContext, lease: Lease, claims: Sequence[Claim]) -> None:
    """Do searches one after the other; a kill loses nothing of one in a stack but the time since its checkpoint.

    Raises:
        LeaseLostError: another worker holds some of them.
        LostError: an adapter that candidates start from is damaged; its trial is pending again.
        InputError: a full disk, or a store that does not answer.
    """
    for claim in claims:
        _search(context, lease, claim)


def _search(context: RunContext, lease: Lease, claim: Claim) -> None:
    spec = claim.spec
    lease.progress()
    try:
        sources = {sha256: find_adapter(context, sha256) for sha256 in spec.needed}
    except UnusableError as error:
        fail(context, lease, claim, str(error))
        return
    try:
        folds = folds_of(context, spec)
        linear = search_linear(context, lease, spec, folds) if spec.method in LINEAR else None
        candidates = [] if linear else _prepared(context, spec, folds, sources, lease.progress)
        linear_beside = beside(context, lease, spec, folds)
    except InputError as error:
        fail(context, lease, claim, str(error))
        return
    try:
        found, options = linear or (_found(context, lease, claim, candidates), [])
    except PictureError as error:  # gone since its rows were read
        fail(context, lease, claim, str(error))
        return
    if found.winner is None:
        fail(context, lease, claim, f"every candidate failed: {found.tried[0].left}")
        return
    outcome = _outcome(context, spec, found)
    if options:  # a linear baseline's own; there is one candidate
        outcome.extra["search"] |= {"winner": 0, "option": options[found.winner]}
    if found.raws:
        _decide(outcome, found, candidates, linear_beside)
    close(context, lease, [(claim, outcome)])


def folds_of(context: RunContext, spec: TrialSpec) -> list[Fold]:
    """The rows of a draw as folds: of n parts of shots and validation rows each validates what the others train.

    One fold: the shots train, the validation rows validate.

    Raises:
        InputError: the rows are not those that the trial was planned with.
    """
    assert spec.search is not None
    shots, validation = examples_of(context, spec)
    rows = [*shots, *validation]
    count = min(spec.search.folds, len(rows))
    if count == 1:
        return [(shots, validation)]
    ends = [len(rows) * part // count for part in range(count + 1)]
    return [([*rows[:a], *rows[b:]], rows[a:b]) for a, b in pairwise(ends)]


def _prepared(
    context: RunContext,
    spec: TrialSpec,
    folds: Sequence[Fold],
    sources: Mapping[str, Adapter],
    progress: Callable[[int], None],
) -> list[list[Trial]]:
    """One trial for each candidate and fold; a head is fitted on what trains in the fold alone."""
    assert spec.search is not None
    known: dict[tuple[object, ...], list[tuple[list[Row], list[Row]]]] = {}
    heads: list[Heads] = [{} for _ in folds]
    made: list[list[Trial]] = []
    for number, candidate in enumerate(spec.search.candidates):
        shape, single, continues = candidate.adapter, spec.of(number), candidate.start == "shots"
        alone = shape.answers == "head" and context.backbone.tokens.masked  # such rows hold no masks
        # all that rows hang on; shared, so that they are hashed once
        reading = shape.s, shape.layout, shape.pictures, continues, alone
        if reading not in known:
            known[reading] = [
                (rows_of(context, training, shape, continues), rows_of(context, validation, shape, continues))
                for training, validation in folds
            ]
        mine = [sources[candidate.source_sha256]] if candidate.source_sha256 else []
        trials = []
        for fold, (training, validation) in enumerate(known[reading]):
            start = start_of(context, single, folds[fold][0], mine)
            start = headed(context, single, start, training, (), heads[fold], progress)
            key = f"{spec.fingerprint}/{number}/{fold}"
            trials.append(Trial(key, start, candidate.training, training, validation, spec.seed))
        made.append(trials)
    return made


def _found(context: RunContext, lease: Lease, claim: Claim, candidates: list[list[Trial]]) -> Found:
    spec, how = claim.spec, claim.spec.search
    assert how is not None
    seconds = None if how.minutes is None else 60 * how.minutes
    folder = home() / "checkpoints"
    options = EngineOptions(checkpoint_folder=folder, checkpoint_seconds=CHECKPOINT_SECONDS)
    title = f"Searching {spec.label.removeprefix('search:')}: {len(candidates)} candidates"
    with bar(title, _expected(how, candidates, spec.method not in STACKED), "tokens") as shown, written(folder):

        def told(tokens: int) -> None:
            shown.advance(tokens)
            lease.progress()

        if spec.method == "in-context":
            return shown_shots(context, candidates[0], told)
        if spec.method in STACKED:
            return context.backbone.search(
                claim.fingerprint, candidates, options, rungs=how.rungs, eta=how.eta, seconds=seconds, on_tokens=told
            )
        backbone = shared_backbone(context.backbone_name, context.dtype, context.device)
        return search_baseline(
            spec.method,
            backbone,
            candidates,
            rungs=how.rungs,
            eta=how.eta,
            seconds=seconds,
            budget=spec.adapter.trainable(context.d),
            on_tokens=told,
        )


def _expected(how: Search, candidates: list[list[Trial]], anew: bool) -> float:
    """Tokens that a search will read, about."""
    total = 0.0
    for trial in candidates[0]:
        mean = sum(len(row.source) for row in trial.rows) / max(1, len(trial.rows))
        steps = how.steps(anew)
        checks = len(candidates) + steps / trial.config.eval_every
        total += steps * trial.batch_size * mean + checks * sum(row.length for row in trial.validation)
    return total


def _decide(
    outcome: TrialOutcome, found: Found, candidates: list[list[Trial]], linear: Mapping[str, list[list[float]]]
) -> None:
    """Choose the winner anew by what each candidate's readout makes of its scores, and who answers beside it."""
    gold = [row.gold for trial in candidates[0] for row in trial.validation]
    labels = {len(row.candidates) for trial in candidates[0] for row in trial.validation}
    if len(labels) != 1 or labels == {1}:
        return  # free answers: there is nothing to choose
    assert outcome.spec.search is not None
    tried = outcome.spec.search.candidates
    decided = decide(
        {number: Raw(*raw) for number, raw in found.raws.items() if not found.tried[number].failed},
        gold,
        outcome.spec.calibration,
        {number: one.adapter.answers == "head" for number, one in enumerate(tried)},
        outcome.spec.search.together,
        linear,
    )
    best = found.tried[decided.members[0]]
    outcome.best_step, outcome.validation_curve, outcome.validation_loss_curve = best.best[0], best.scores, best.losses
    outcome.validation = {"loss": decided.loss, "score": decided.score}
    outcome.extra["readout"] = decided.told
    bodies = [readout.body for readout in decided.readouts]
    outcome.extra["search"] |= {
        "winner": decided.members[0],
        "members": list(decided.members),
        "readouts": dict(zip(map(str, decided.members), bodies, strict=True)),
        "together": list(decided.losses),
        "beside": list(decided.beside),
        "weights": list(decided.weights),
    }


def _outcome(context: RunContext, spec: TrialSpec, found: Found) -> TrialOutcome:
    assert found.winner is not None
    best = found.tried[found.winner]
    step, validation = best.best
    return TrialOutcome(
        spec=spec,
        adapter_key="",
        adapter_sha256="",
        best_step=step,
        steps_done=found.steps,
        validation=validation,
        validation_curve=best.scores,
        validation_loss_curve=best.losses,
        seconds=found.seconds,
        tokens=found.tokens,
        tokens_per_second=found.tokens / found.seconds if found.seconds else 0.0,
        peak_memory_mib=peak_memory_mib(),
        extra={"metric": context.tasks[spec.task].metrics[0], "search": found.told()},
    )
