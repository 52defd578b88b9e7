"""What a person decides: promote an adapter, take a promotion back. Audited like every decision."""

from __future__ import annotations

import getpass

from dept.backbones.describe import describe
from dept.trial import TrialOutcome
from infra.errors import InputError
from registry.ledger.schema import DecisionRow
from registry.promotion import versions
from registry.promotion.alone import ChampionChangedError, alone
from registry.promotion.champion import carry_out
from registry.promotion.choose import KINDS, can_answer
from registry.promotion.lookup import champion, history, of_weights
from registry.promotion.names import model_name
from registry.promotion.older import adopt, older_champions
from registry.promotion.rows import Stores


def promote(
    stores: Stores, task: str, backbone_id: str, *, version: str | None = None, fingerprint: str | None = None
) -> DecisionRow:
    """Let an adapter answer for its task from now on.

    Args:
        version: of the registered model; or `fingerprint`: of a trial, its first digits are enough.

    Raises:
        InputError: no such version or trial; one of another task or backbone, or that cannot be served.
    """
    found = champion(stores.ledger, stores.tracker, task, backbone_id)
    name = found.name if found else versions.find_model(stores.tracker, task, backbone_id)
    if version is not None:
        known = versions.by_number(stores.tracker, name, version) if name else None
        if known is None:
            _refuse_of_first_version(stores, "promote", task, backbone_id)
            raise InputError(
                f"promote: {name or f'task {task}'} has no version {version}. Remedy: MLflow's page of the model lists "
                "versions, `dept trials` fingerprints"
            )
        fingerprint = known.tags.get("fingerprint", "")
    outcome = _outcome(stores, task, backbone_id, fingerprint or "")
    return _move(stores, outcome, name, "by-hand", "promoted by hand")


def rollback(stores: Stores, task: str, backbone_id: str) -> DecisionRow:
    """Let the adapter answer that was champion before the one of today.

    Raises:
        InputError: no champion, or none before it; an adapter that is lost.
    """
    changes = history(of_weights(stores.ledger.decisions(task=task), backbone_id))
    if len(changes) < 2:
        _refuse_of_first_version(stores, "rollback", task, backbone_id)
        raise InputError(f"rollback: task {task} has {'no earlier' if changes else 'no'} champion on this backbone")
    outcome = _outcome(stores, task, backbone_id, str(changes[-2].challenger_fingerprint))
    return _move(
        stores, outcome, changes[-1].model, "rolled-back", f"{changes[-1].decision} of {changes[-1].at:%F} taken back"
    )


def _refuse_of_first_version(stores: Stores, what: str, task: str, backbone_id: str) -> None:
    """Say what to do where all that is known of the task's champions is what 0.1.0 left.

    Raises:
        InputError: so it is.
    """
    if champion(stores.ledger, stores.tracker, task, backbone_id) is not None:
        return
    found = [one for one in older_champions(stores.tracker, task) if _may_be(one.backbone, backbone_id)]
    if found:
        which = f"{found[0].name}, version {found[0].version}"
        raise InputError(
            f"{what}: task {task} has only its champion of version 0.1.0 ({which}), which goes on answering. Remedy: "
            f"`dept run` of its plan takes it over and compares it; from then on `dept {what}` knows it"
        )


def _may_be(backbone: str, backbone_id: str) -> bool:
    """Whether a champion of 0.1.0, whose weights are not known, is of these: its backbone may be out of reach."""
    try:
        return describe(backbone).backbone_id == backbone_id
    except InputError:
        return True


def _outcome(stores: Stores, task: str, backbone_id: str, fingerprint: str) -> TrialOutcome:
    rows = [
        row
        for kind in KINDS
        for row in stores.ledger.find(task=task, kind=kind, status="finished", backbone_id=backbone_id, outcomes=False)
    ]
    fits = [row.fingerprint for row in rows if fingerprint and row.fingerprint.startswith(fingerprint.lower())]
    if not fits:
        _refuse_of_first_version(stores, "promote", task, backbone_id)
    if len(fits) != 1:
        said = f"{len(fits)} finished trials" if fits else "no finished trial"
        raise InputError(
            f"promote: {said} of task {task} on this backbone with a fingerprint that begins with {fingerprint!r}. "
            f"Remedy: `dept trials --task {task}` lists them"
        )
    outcome = stores.ledger.outcome(fits[0])
    if not can_answer(outcome):
        raise InputError(f"promote: {outcome.spec.label} is no adapter that can answer for its task")
    return outcome


def _move(stores: Stores, outcome: TrialOutcome, name: str | None, verdict: str, reason: str) -> DecisionRow:
    try:
        return _moved(stores, outcome, name, verdict, reason)
    except ChampionChangedError as error:
        raise InputError(
            f"{outcome.spec.task}: another process decided about its champion meanwhile, so nothing was changed. "
            "Remedy: look at `dept champions`, then ask again"
        ) from error


def _moved(stores: Stores, outcome: TrialOutcome, name: str | None, verdict: str, reason: str) -> DecisionRow:
    spec = outcome.spec
    with alone(stores, spec) as held:
        older = adopt(stores, spec.task, spec.backbone, spec.backbone_id, held)
        before = champion(stores.ledger, stores.tracker, spec.task, spec.backbone_id)
        if before is not None and before.fingerprint == spec.fingerprint:
            raise InputError(f"{before.name}: {spec.label} is its champion already")
        name = name or (before and before.name) or model_name(spec.backbone, spec.backbone_id, spec.task)
        version = versions.register(stores, name, outcome)
        row = stores.ledger.record_decision(
            name,
            spec.task,
            verdict,
            f"{reason}; {older}" if older else reason,
            champion_version=before.version if before else None,
            champion_fingerprint=before.fingerprint if before else None,
            challenger_version=str(version.version),
            challenger_fingerprint=spec.fingerprint,
            backbone_id=spec.backbone_id,
            dtype=spec.dtype,
            by=_person(),
            held=held,
        )
        carry_out(stores, row, version, held)
        return row


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "a person"
