"""Adapters by what the ledger knows of them: their place in the store, checked against their sha256."""

from __future__ import annotations

from dept.adapters.adapter import Adapter
from dept.baselines.answering import Answering, load_answering, members_of
from dept.baselines.ensemble import Ensemble
from dept.baselines.single import Single
from dept.trial import TrialOutcome
from flows.execution.context import RunContext
from flows.execution.heal import LostError, heal, place_of
from infra.errors import InputError


class UnusableError(InputError):
    """An adapter that a trial needs is not in the ledger, or is of another backbone."""


def load_adapter(context: RunContext, outcome: TrialOutcome) -> Answering:
    """The adapter of a trial, its ensemble or linear baseline, checked against the ledger's sha256 and the backbone.

    Raises:
        LostError: missing, damaged or altered; its trial is pending again.
        UnusableError: of another backbone.
        InputError: the store does not answer.
    """
    try:
        adapter = load_answering(place_of(context, outcome))
        if adapter.sha256 != outcome.adapter_sha256:  # the right file lies there too, but another one was read
            aside = context.store.quarantine(outcome.adapter_key)
            raise LostError(f"{outcome.adapter_key}: not the adapter of the ledger; it was put aside as {aside}")
    except LostError as error:
        heal(context, outcome, str(error))
        raise
    try:
        for part in members_of(adapter):
            context.backbone.check_adapter(part)
    except InputError as error:
        raise UnusableError(str(error)) from error
    return adapter


def find_answering(context: RunContext, sha256: str) -> Answering:
    """The adapter of this sha256: a source trial's, a mixture of such, several together, or a linear baseline.

    Raises:
        UnusableError: it is not in the ledger, or of another backbone.
        LostError, InputError: as `load_adapter`.
    """
    row = context.ledger.by_sha256(sha256)
    if row is None:
        raise UnusableError(f"adapter {sha256[:12]} is not in the ledger. Remedy: run the plan that trained it again")
    return load_adapter(context, context.ledger.outcome(row.fingerprint))


def find_single(context: RunContext, sha256: str) -> Single:
    """The adapter or linear baseline of this sha256, to answer beside others.

    Raises:
        UnusableError: it is not in the ledger, of another backbone, or several together.
        LostError, InputError: as `load_adapter`.
    """
    found = find_answering(context, sha256)
    if isinstance(found, Ensemble):
        raise UnusableError(f"adapter {sha256[:12]} is several together, of which no other ensemble is made")
    return found


def find_adapter(context: RunContext, sha256: str) -> Adapter:
    """The one adapter of this sha256, to start from or to put beside others.

    Raises:
        UnusableError: it is not in the ledger, of another backbone, or no single adapter.
        LostError, InputError: as `load_adapter`.
    """
    found = find_answering(context, sha256)
    if not isinstance(found, Adapter):
        raise UnusableError(f"adapter {sha256[:12]} is {type(found).__name__.lower()}, from which no adapter can start")
    return found
