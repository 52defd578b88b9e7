"""Champions that version 0.1.0 registered: found, met by candidates, rolled back to."""

import json
import shutil

import pytest
from sqlalchemy import insert

from dept.backbones.describe import describe
from infra.errors import InputError
from infra.settings import home
from registry.ledger.clock import now
from registry.ledger.rows import outcome_columns, spec_columns
from registry.ledger.schema import TrialRow
from registry.promotion.by_hand import rollback
from registry.promotion.lookup import all_champions, champion
from registry.promotion.older import TAKEN, older_backbones, older_champions
from tests.registry.registry_helpers import make_outcome, make_spec, save_adapter, save_tiny_backbone

OLD = "0" * 63 + "1"  # a fingerprint of 0.1.0 is none of today's
NAME = "dept-tiny-mood"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return describe(str(save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")))


def left_by_0_1_0(world, backbone, legacy=None, folder=None):
    """A champion as 0.1.0 left it: files in the home, a trial of layout 0, a model whose tags name no weights."""
    legacy = legacy or min(backbone.legacy_ids())
    spec = make_spec(task="mood", backbone=str(backbone.folder), backbone_id=legacy, data_hash="c" * 64, seed=7)
    place = home() / "adapters" / OLD
    outcome = make_outcome(spec, f"adapters/{OLD}", validation={"score": 60.0, "accuracy": 60.0, "loss": 0.9})
    outcome.adapter_sha256 = save_adapter(place, spec, d=16, backbone_id=legacy, dtype="float32", fingerprint=OLD)
    body = spec.model_dump(mode="json", exclude={"schema_version", "kind", "dtype", "start", "sources", "row_ids"})
    columns = {**spec_columns(spec), **outcome_columns(outcome), "fingerprint": OLD, "schema_version": 0, "spec": body}
    times = dict.fromkeys(("created_at", "updated_at", "finished_at"), now())
    row = insert(TrialRow).values(**columns, position=0, status="finished", attempt=1, **times)
    world.ledger._write(lambda session: session.execute(row))
    client = world.tracker.client
    client.create_registered_model(NAME, tags={"task": "mood", "license": "CC0-1.0"})
    tags = {"fingerprint": OLD, "task": "mood", "backbone": str(backbone.folder), "backbone_id": legacy}
    tags |= {"adapter_sha256": outcome.adapter_sha256, "validation": "60.0"}
    client.create_model_version(NAME, (home() / "artifacts").as_uri(), tags=tags)
    client.set_registered_model_alias(NAME, "champion", "1")
    return place


def candidate(world, backbone, **changes):
    spec = make_spec(
        task="mood",
        backbone=str(backbone.folder),
        backbone_id=backbone.backbone_id,
        dtype="float32",
        data_hash=world.splits["mood"].data_hash,
        test_rows=20,
        **changes,
    )
    return world.finish(spec, validation={"score": 75.0, "accuracy": 75.0, "loss": 0.5})


def champion_now(world, backbone):
    return champion(world.ledger, world.tracker, "mood", backbone.backbone_id)


def test_before_anything_is_decided_it_is_listed(world, backbone):
    left_by_0_1_0(world, backbone)
    (found,) = older_champions(world.tracker)
    assert (found.task, found.name, found.version, found.validation) == ("mood", NAME, "1", 60.0)
    assert "0.1.0" in found.note
    assert older_backbones(world.tracker, "mood") == {backbone.backbone_id: str(backbone.folder)}


def test_a_candidate_has_to_be_better_than_it(world, backbone):
    left_by_0_1_0(world, backbone)
    row = world.fight(candidate(world, backbone), lambda _: True, lambda i: i % 2 == 0)
    assert (row.decision, row.champion_score, row.challenger_score) == ("kept", 100.0, 50.0)
    found = champion_now(world, backbone)
    assert (found.name, found.version, found.dtype, found.validation) == (row.model, "1", "float32", 60.0)
    assert found.adapter_sha256 == world.ledger.get(OLD).adapter_sha256
    assert [one.name for one in all_champions(world.ledger, world.tracker)] == [row.model]
    assert older_champions(world.tracker) == [], "it is listed once"
    assert world.tracker.client.get_registered_model(NAME).tags[TAKEN] == row.model
    first, _ = world.ledger.decisions(task="mood")
    assert (first.decision, first.reason) == (
        "first",
        f"the champion of 0.1.0 ({NAME}, version 1) goes on under this name",
    )


def test_what_replaced_it_can_be_rolled_back(world, backbone):
    left_by_0_1_0(world, backbone)
    better = candidate(world, backbone)
    assert world.fight(better, lambda i: i % 2 == 0, lambda _: True).decision == "promoted"
    assert champion_now(world, backbone).fingerprint == better.spec.fingerprint
    assert rollback(world, "mood", backbone.backbone_id).decision == "rolled-back"
    found = champion_now(world, backbone)
    assert (found.version, found.adapter_sha256) == ("1", world.ledger.get(OLD).adapter_sha256)
    shutil.rmtree(home() / "adapters")
    assert world.store.fetch(found.adapter_key).is_dir(), "the store has a copy of its own"
    assert world.ledger.by_sha256(found.adapter_sha256).fingerprint == found.fingerprint


@pytest.mark.parametrize("harm", ["row", "file", "tensors"])
def test_one_that_cannot_be_met_is_not_replaced_without_a_word(world, backbone, harm):
    place = left_by_0_1_0(world, backbone)
    if harm == "row":
        world.ledger.forget([OLD])
    elif harm == "file":
        shutil.rmtree(place)
    else:
        (place / "adapter.safetensors").write_bytes(b"other")
    row = world.fight(candidate(world, backbone), lambda _: True, lambda _: True)
    assert row.decision == "first"
    assert row.reason.startswith(f"the champion of 0.1.0 ({NAME}, version 1) could not be compared: ")


def test_one_of_other_weights_is_another_matter(world, backbone):
    place = left_by_0_1_0(world, backbone, legacy="e" * 64)
    assert json.loads((place / "adapter.json").read_text())["metadata"]["backbone_id"] == "e" * 64
    row = world.fight(candidate(world, backbone), lambda _: True, lambda _: True)
    assert (row.decision, row.reason) == ("first", "no champion before; validation 75.00")
    with pytest.raises(InputError, match="no earlier champion"):
        rollback(world, "mood", backbone.backbone_id)
