"""Challengers: trials that renew a champion, each from the best source adapter that has never seen its task's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dept.config import TrainConfig
from dept.trial import LINEAR, SCHEMA, TrialOutcome, TrialSpec, goodness
from flows.execution.champions import with_encoder
from flows.execution.context import RunContext
from flows.execution.settle import Settled, Workers, settle
from flows.planning.places import SEARCH_SEED
from flows.planning.retraining import Retraining, Stale
from flows.planning.trials import Inputs
from registry.promotion.rows import unseen_task


def train_challengers(context: RunContext, order: Retraining, stale: Sequence[Stale], workers: Workers) -> Settled:
    """Train a challenger for each stale champion.

    Raises:
        LostError: an adapter that a trial starts from was damaged; its trial is pending again.
        InputError: a store that does not answer.
    """
    wanted = {item.task: renewed(context, item) for item in stale}
    sources, inputs = _sources(context, workers), context.inputs
    fitting = {name: [one for one in sources if _fits(context, one, spec)] for name, spec in wanted.items()}
    tried = {
        (name, one.adapter_sha256): _probe(inputs, wanted[name], one) for name, part in fitting.items() for one in part
    }
    probes = settle(context, "starts", list(tried.values()), workers).by_fingerprint
    specs = []
    for name, spec in wanted.items():
        found = {one.adapter_sha256: probes.get(tried[name, one.adapter_sha256].fingerprint) for one in fitting[name]}
        ranked = [one for one in fitting[name] if found[one.adapter_sha256] is not None]
        specs.append(_from_best(order, spec, ranked, found))
    return settle(context, "challengers", specs, workers)


def renewed(context: RunContext, item: Stale) -> TrialSpec:
    """The champion's spec on the data, task spec, backbone and number type of today, from scratch."""
    row = context.ledger.get(item.fingerprint)
    assert row is not None  # else it would not be stale
    spec = row.trial_spec
    if spec.kind == "ensemble":
        spec = _standing_in(context, spec)
    seed = spec.seed
    if item.only_old:  # the same fingerprint would be the same adapter: other shots and another start instead
        rows = context.ledger.find(task=item.task, kind="train", outcomes=False)
        seed = 1 + max([row.seed for row in rows if row.seed < SEARCH_SEED], default=spec.seed)
    today = _today(context, item.task)
    if spec.method in ("in-context", *LINEAR):
        today["start"] = "shots"  # its shots are all that it is
    if spec.shots is not None and spec.validation_rows:
        today["validation_rows"] = len(context.splits[item.task].validation)  # the whole split, as it is now
    today |= {"role": "challenger", "seed": seed, "test_rows": 0, "adapter": with_encoder(spec.adapter)}
    return spec.model_copy(update=today)


def _standing_in(context: RunContext, spec: TrialSpec) -> TrialSpec:
    """The trial of one adapter that challenges several: made as the first of them that was trained."""
    rows = [context.ledger.by_sha256(sha256) for sha256 in spec.sources]
    known = [row.trial_spec for row in rows if row is not None and row.unreadable is None]
    known.append(spec.model_copy(update={"kind": "train", "sources": (), "weights": ()}))
    return next((one for one in known if one.training.steps), known[0])


def _from_best(
    order: Retraining, spec: TrialSpec, sources: Sequence[TrialOutcome], probes: dict[str, TrialOutcome | None]
) -> TrialSpec:
    def rank(one: TrialOutcome) -> tuple[float, float]:
        probe = probes[one.adapter_sha256]
        return goodness(probe.validation if probe else {})

    if not sources and spec.method == "dept" and not (spec.training.steps or spec.adapter.reads):
        return spec.model_copy(update={"method": "calibrated"})  # the prompt's text, untrained, which auto chose
    if not sources:
        return spec
    best = max(sources, key=rank)
    few = spec.shots is not None
    start = {"init": "best-source", "start": "source", "source_task": best.spec.task}
    training = {"training": order.training} if few else {}
    return spec.model_copy(update={**start, **training, "source_sha256": best.adapter_sha256})


def _fits(context: RunContext, source: TrialOutcome, spec: TrialSpec) -> bool:
    """Whether a challenger may start from a source: of its shape, and a stranger to its task's rows."""
    shaped = spec.method == "dept" and spec.adapter.starts_from(source.spec.adapter)
    return shaped and unseen_task(context, source.spec, spec.task)


def _probe(inputs: Inputs, spec: TrialSpec, source: TrialOutcome) -> TrialSpec:
    """A source's adapter as it is, validated on the challenger's own draw."""
    return spec.model_copy(
        update={
            "kind": "probe",
            "role": "search",
            "init": "best-source",
            "start": "source",
            "source_task": source.spec.task,
            "source_sha256": source.adapter_sha256,
            "training": TrainConfig(steps=0),
            "adapter": inputs.told(spec.adapter.headless, spec.adapter),
            "calibration": "none",
        }
    )


def _sources(context: RunContext, workers: Workers) -> list[TrialOutcome]:
    """Source adapters on today's weights, of each task and shape the newest; where there are none, they are trained."""
    rows = context.ledger.find(role="source", kind="train", status="finished", outcomes=False)
    specs = [row.trial_spec for row in rows if row.unreadable is None and not row.trial_spec.members]
    current = _newest(spec for spec in specs if spec.backbone_id == context.backbone_id)
    if current:
        return list(context.ledger.outcomes(spec.fingerprint for spec in current).values())
    older = _newest(spec for spec in specs if spec.backbone == context.backbone_name and spec.task in context.splits)
    again = [spec.model_copy(update={**_today(context, spec.task), "test_rows": 0}) for spec in older]
    return settle(context, "sources", again, workers).outcomes


def _newest(specs: Iterable[TrialSpec]) -> list[TrialSpec]:
    return list({(spec.task, spec.adapter): spec for spec in specs}.values())


def _today(context: RunContext, name: str) -> dict[str, Any]:
    """The fields of a spec that say what data, task, backbone and number type are today, from scratch, validated."""
    return {
        "schema_version": SCHEMA,
        "backbone": context.backbone_name,
        "backbone_id": context.backbone_id,
        "dtype": context.dtype,
        "computed": context.computed,
        "chat": context.chat if context.tasks[name].chat else None,
        "data_hash": context.splits[name].data_hash,
        "task_version": context.tasks[name].version,
        "init": "scratch",
        "start": "text",
        "source_task": None,
        "source_sha256": None,
        "teacher_sha256": None,
        "refit": False,  # its rows choose a source and a step again
        "searched": None,
        "readout": None,
    }
