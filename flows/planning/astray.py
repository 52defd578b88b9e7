"""Refits that went astray, and the trials that take their place. Pure.

A search validates what it trains; a refit, on all rows of its draw, validates nothing, so a training that has become
unstable goes unseen. Its own rows show it: an adapter that answers the rows which it has learned worse than its search
answered rows held out has learned nothing from them. It is trained again at half the rates, and the one of the two with
the lower loss on these rows stays. No other row plays a part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dept.config import RATES
from dept.trial import OWN_LOSS, TrialOutcome, TrialSpec

SLOWER = 0.5  # of each rate


@dataclass
class Steadied:
    """Trials after those that went astray were trained again.

    Attributes:
        outcomes: what stays, in the order of the trials. instead: specs of what took another's place, by its
            fingerprint. left: the outcomes that do not stay. notes: what became of it, by its search.
    """

    outcomes: list[TrialOutcome] = field(default_factory=list)
    instead: dict[str, TrialSpec] = field(default_factory=dict)
    left: list[TrialOutcome] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def unvalidated(spec: TrialSpec) -> bool:
    """Whether a trial of a search's recipe has learned by steps from all rows of its draw: none validates it."""
    return spec.kind == "train" and spec.refit and spec.searched is not None and bool(spec.training.end)


def astray(outcomes: Iterable[TrialOutcome], searched: Mapping[str, TrialOutcome]) -> dict[str, TrialSpec]:
    """The trials that take the place of refits that went astray, by the fingerprints of these.

    Args:
        outcomes: `extra["own_loss"]` of refits is their loss on their own rows; where it is not known, as in ledgers
            from before it was kept and for answers that are written, nothing is said against them.
        searched: outcomes of searches, by fingerprint.
    """
    found = {}
    for one in outcomes:
        search = searched.get(one.spec.searched or "")
        if search is None or not unvalidated(one.spec) or OWN_LOSS not in one.extra:
            continue
        if _own(one) > _held_out(one.spec, search):
            found[one.spec.fingerprint] = _slower(one.spec)
    return found


def steadied(
    outcomes: Sequence[TrialOutcome], lost: Mapping[str, TrialSpec], again: Mapping[str, TrialOutcome]
) -> Steadied:
    """What stays of trials, of which several may have one fingerprint: `auto` may have chosen what is shown beside it.

    Args:
        lost: see `astray`. again: outcomes of its trials, by their fingerprints; those that have failed are not there.
    """
    found, said = Steadied(), set()
    for one in outcomes:
        key = one.spec.fingerprint
        if key not in lost:
            found.outcomes.append(one)
            continue
        second = again.get(lost[key].fingerprint)
        better = second if second is not None and _own(second) < _own(one) else None
        stays = one if better is None else replace(better, spec=_slower(one.spec))
        found.outcomes.append(stays)
        if better is not None:
            found.instead[key] = stays.spec
        if key not in said and second is not None:
            found.left.append(_as_tried(second if better is None else one))
        said.add(key)
        rates = "as it was" if better is None else "at half the rates"
        found.notes[one.spec.searched or ""] = f"{one.spec.variant} went astray and was trained again; kept: {rates}"
    return found


def told(one: TrialOutcome) -> str:
    """A sentence about a refit that went astray."""
    return (
        f"{one.spec.label} went astray: its loss on the rows that it has learned is {_own(one):.2f} nats, more than "
        "its search found on rows held out. It is trained again at half the rates."
    )


def _as_tried(one: TrialOutcome) -> TrialOutcome:
    """As reports count what was made to choose by."""
    return replace(one, spec=one.spec.model_copy(update={"role": "search", "searched": None}))


def _own(one: TrialOutcome) -> float:
    found = float(one.extra.get(OWN_LOSS, math.inf))
    return found if math.isfinite(found) else math.inf


def _held_out(spec: TrialSpec, search: TrialOutcome) -> float:
    """Loss of the search's choice, or of this candidate alone and as it is, whichever is more."""
    losses = [search.validation.get("loss", math.inf)]
    tried = search.extra["search"]["tried"]
    for number in range(len(search.spec.search.candidates) if search.spec.search else 0):
        made = search.spec.of(number)
        alike = made.training.model_copy(update={"last": spec.training.last}) == spec.training
        if alike and (made.adapter, made.start, made.source_sha256) == (spec.adapter, spec.start, spec.source_sha256):
            losses.append(float(tried[number]["validation"].get("loss", math.inf)))
    return max(losses)


def _slower(spec: TrialSpec) -> TrialSpec:
    training = spec.training.model_copy(update={name: SLOWER * getattr(spec.training, name) for name in RATES})
    return spec.model_copy(update={"training": training})
