"""A small world for tests of champions: a task with rows, finished trials, answers of adapters, no backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dept.trial import TrialOutcome, TrialSpec
from infra.identity import process_id
from infra.settings import home
from registry.ledger import Ledger
from registry.promotion.champion import Match, decide, match
from registry.promotion.lookup import champion
from registry.store import Store
from registry.tracking import Tracker
from tasks.formatting import Record
from tasks.spec import Task
from tasks.splits import Splits, make_splits
from tests.registry.registry_helpers import TASK, make_outcome, make_spec, new_store, save_adapter
from tests.registry.tracking_helpers import log_trial

ID = "b" * 64


@dataclass
class World:
    """What `flows.execution.context.RunContext` offers to decisions; the rest of it is not needed."""

    ledger: Ledger
    store: Store
    tracker: Tracker
    tasks: dict[str, Task] = field(default_factory=lambda: {"mood": TASK})
    splits: dict[str, Splits] = field(default_factory=dict)
    run_id: str = ""
    parent_run: str = ""

    def finish(self, spec: TrialSpec, **changes) -> TrialOutcome:
        """A finished trial with an adapter in the store."""
        self.ledger.add([spec])
        (claim,) = [one for one in self.ledger.claim(process_id(), 64) if one.fingerprint == spec.fingerprint]
        folder = home() / "made" / spec.fingerprint
        sha256 = save_adapter(folder, spec, backbone_id=spec.backbone_id)
        digest = self.store.put_folder(folder, claim.key)
        outcome = make_outcome(spec, claim.key, **{"files_sha256": digest, **changes})
        outcome.adapter_sha256 = sha256
        self.ledger.trained(claim, outcome)
        run_id = log_trial(self.tracker, outcome, self.store.fetch(claim.key), attempt=claim.attempt)
        self.ledger.finish(claim, run_id, outcome)
        return outcome

    def trial(self, seed: int = 0, shots: int | None = 16, loss: float = 0.5, **changes) -> TrialOutcome:
        """A finished trial of the task `mood` on its rows of today."""
        data_hash = changes.pop("data_hash", self.splits["mood"].data_hash if self.splits else "d" * 64)
        spec = make_spec(
            task="mood", seed=seed, shots=shots, backbone_id=ID, data_hash=data_hash, test_rows=20, **changes
        )
        return self.finish(spec, validation={"score": 75.0, "accuracy": 75.0, "loss": loss})

    def judged(self, of: Match, right: dict[str, Callable[[int], bool]]) -> dict[str, TrialOutcome]:
        """Outcomes of the evaluations of a match, by whether each role has the row at a place right."""
        found = {}
        for spec in of.specs:
            said = [row.label if right[spec.role](i) else 1 - row.label for i, row in enumerate(of.rows)]
            found[spec.fingerprint] = TrialOutcome(spec, "", "", 0, 0, {}, extra={"rows": said})
        return found

    def fight(self, candidate: TrialOutcome, champion_right, challenger_right, considered=(), **options):
        """Match, evaluate, decide."""
        of = match(self, candidate, considered)
        answered = self.judged(of, {"champion": champion_right, "challenger": challenger_right})
        return decide(self, of, answered, **options)


def mood_splits(rows: int = 1200, first: int = 0) -> Splits:
    """Rows of the task `mood`, numbered from `first`."""
    return make_splits(
        TASK,
        [
            Record(f"line {i}", {"text": f"{'nice' if i % 2 else 'dull'} film number {i}"}, "pos" if i % 2 else "neg")
            for i in range(first, first + rows)
        ],
    )


def new_world(kind: type[World] = World) -> World:
    """A world of its own in this test's home, with the rows of the task `mood`."""
    new_store(home())
    return kind(Ledger.open(), Store.open(), Tracker(), splits={"mood": mood_splits()})


NAME = "mood-dept-tiny-bbbbbbbb"


def always(i):
    return True


def never(i):
    return False


def half(i):
    return i % 2 == 0


def champion_now(world):
    return champion(world.ledger, world.tracker, "mood", ID)


def numbers_of(world, name=NAME):
    found = world.tracker.client.search_model_versions(f"name = '{name}'")
    return {int(version.version): version.tags["fingerprint"] for version in found}


def aliases(world, name=NAME):
    return world.tracker.client.get_registered_model(name).aliases
