"""What people delete in MLflow is written again, or said."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.settings import home
from registry.promotion import versions
from registry.promotion.lookup import adapter_folder, champion
from registry.store import SUMS
from registry.tracking import Tracker
from tests.registry.promotion_helpers import (
    ID,
    NAME,
    aliases,
    always,
    champion_now,
    half,
)


def spoil(folder):
    """Another template in an adapter's manifest, with sums that fit where there are some."""
    manifest, sums = folder / "adapter.json", folder / SUMS
    manifest.write_text(manifest.read_text().replace("mood:", "weather:"))
    if sums.is_file():
        told = json.loads(sums.read_text())
        told["adapter.json"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
        sums.write_text(json.dumps(told))


def test_a_champion_with_another_manifest_does_not_answer(world):
    """The same tensors asked by another template give wrong answers."""
    outcome = world.trial(0)
    world.fight(outcome, always, always)
    found = champion_now(world)
    spoil(adapter_folder(found, world.store, world.tracker))
    told = []
    copy = adapter_folder(found, world.store, world.tracker, told.append)
    assert "weather" not in (copy / "adapter.json").read_text()
    assert "MLflow's copy answers" in told[0]
    spoil(copy)
    with pytest.raises(InputError, match=r"altered.*`dept run`"):
        adapter_folder(found, world.store, world.tracker)


def delete_run(world, version):
    world.tracker.client.delete_run(version.run_id)


def delete_files(world, version):
    shutil.rmtree(version.source.removeprefix("file://"))  # the only copy there: a run holds none


def delete_version(world, version):
    world.tracker.client.delete_model_version(version.name, version.version)


def delete_model(world, version):
    world.tracker.client.delete_registered_model(version.name)


def delete_experiment(world, version):
    world.tracker.client.delete_experiment(world.tracker.experiment_id)
    world.tracker = Tracker()


@pytest.mark.parametrize("delete", [delete_run, delete_files, delete_version, delete_model, delete_experiment])
def test_what_people_delete_in_mlflow_is_written_again(world, delete):
    outcome = world.trial(0)
    world.fight(outcome, always, always)
    delete(world, versions.by_alias(world.tracker, NAME, "champion"))
    found = champion_now(world)
    assert found.fingerprint == outcome.spec.fingerprint
    assert (adapter_folder(found, world.store, world.tracker) / "adapter.json").is_file(), "served from the store"
    world.fight(outcome, always, always)
    found = champion_now(world)
    version = versions.by_alias(world.tracker, NAME, "champion")
    assert version.tags["fingerprint"] == outcome.spec.fingerprint
    run = world.tracker.client.get_run(version.run_id)
    assert run.info.lifecycle_stage == "active"
    assert Path(world.tracker.download(f"{version.source}/artifacts/adapter")).is_dir()
    assert len(world.ledger.decisions(NAME)) == 1
    assert found.note == ""


def test_of_another_plan_too(world):
    """A lost version is written again by whatever run meets it, not by the one that made it alone."""
    first = world.trial(0)
    world.fight(first, always, always)
    world.tracker.client.delete_registered_model(NAME)
    assert "dept run" in champion_now(world).note
    assert world.fight(world.trial(1), half, half).decision == "kept"
    assert champion_now(world).fingerprint == first.spec.fingerprint
    assert set(aliases(world)) == {"champion", "challenger"}


def test_gone_everywhere_is_one_line_with_a_remedy(world):
    world.fight(world.trial(0), always, always)
    found = champion_now(world)
    shutil.rmtree(home() / "store")
    version = versions.by_alias(world.tracker, NAME, "champion")
    delete_files(world, version)
    with pytest.raises(InputError, match=r"is gone .*Remedy: `dept run`"):
        adapter_folder(found, world.store, world.tracker)


def test_without_a_ledger_mlflow_alone_answers(world):
    outcome = world.trial(0)
    world.fight(outcome, always, always)
    found = champion(None, world.tracker, "mood", ID)
    assert (found.name, found.fingerprint, found.adapter_key) == (NAME, outcome.spec.fingerprint, None)
    assert (adapter_folder(found, world.store, world.tracker) / "adapter.json").is_file()
    assert champion(None, world.tracker, "mood", "c" * 64) is None
