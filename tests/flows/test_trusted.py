"""Files and orders that nobody should trust: altered adapters, plans that came through the API."""

import contextlib
import dataclasses
import hashlib
import json
import shutil

import pytest

from dept.adapters.adapter import Adapter
from flows import transfer
from flows.execution.adapters import find_adapter
from flows.execution.heal import LostError
from flows.execution.open import open_plan
from flows.execution.settle import settle
from flows.planning.plan_file import load_plan
from flows.planning.retraining import Retraining
from flows.planning.trials import source_specs
from flows.retrain import dept_retrain
from infra.errors import InputError
from infra.settings import home
from registry.promotion.lookup import Champion, adapter_folder
from registry.store import SUMS

WEIGHTS, MANIFEST = "adapter.safetensors", "adapter.json"


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def believable(folder):
    """Another adapter of the same shape in its place, with sums and manifest that fit it."""
    other = Adapter.load(folder)
    other.prompt.data += 1.0
    sums = json.loads((folder / SUMS).read_text())
    for file in sums:
        (folder / file).unlink()
    made = folder.parent / "made"
    other.save(made)
    for file in made.iterdir():
        file.rename(folder / file.name)
    shutil.rmtree(made)
    names = [file.name for file in folder.iterdir() if file.name != SUMS]
    told = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / SUMS).write_text(json.dumps(told))


def another_manifest(folder):
    """The right tensors, that answer another question: words turned round, with sums that fit."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["metadata"]["words"].reverse()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    sums = json.loads((folder / SUMS).read_text())
    sums[MANIFEST] = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / SUMS).write_text(json.dumps(sums))


def hidden_behind_the_right_one(folder):
    """The same, with the right file beside it under another name."""
    right = (folder / WEIGHTS).read_bytes()
    believable(folder)
    (folder / "right.bin").write_bytes(right)


@pytest.mark.parametrize("alter", [flip_a_bit, believable, hidden_behind_the_right_one, another_manifest])
def test_an_altered_adapter_is_used_for_nothing(make_plan, monkeypatch, alter):
    """Starts of targets, evaluations, challengers: each gets its adapter by `find_adapter`."""
    monkeypatch.setattr(transfer, "step", lambda name, body: body())
    with contextlib.ExitStack() as stack:
        plan = load_plan(make_plan(seeds=[0], sources=["food"]))
        context = open_plan(plan)
        stack.enter_context(transfer.begun(context, plan.name, "transfer"))
        specs = source_specs(plan, context.inputs)
        settle(context, "sources", specs)
        row = context.ledger.get(specs[0].fingerprint)
        assert find_adapter(context, row.adapter_sha256).sha256 == row.adapter_sha256
        alter(context.store.fetch(row.adapter_key))
        with pytest.raises(LostError):
            find_adapter(context, row.adapter_sha256)
        assert context.ledger.get(row.fingerprint).status == "pending"  # it is made again


@pytest.fixture
def through_the_api(monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    monkeypatch.delenv("DEPT_PLAN_ROOTS", raising=False)


def test_a_plan_from_the_api_reads_no_file_outside_the_roots(through_the_api, make_plan, monkeypatch, tmp_path):
    plan = load_plan(make_plan())
    with pytest.raises(InputError, match=r"^(own_tasks\.food\.source\.path|backbone): outside the folders"):
        transfer.dept_transfer.fn(plan)
    monkeypatch.setenv("DEPT_PLAN_ROOTS", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="DEPT_PLAN_ROOTS"):
        transfer.dept_transfer.fn(plan)
    assert not home().exists()  # refused before anything is opened


def test_a_retraining_from_the_api_reads_no_file_outside_the_roots(through_the_api, tmp_path):
    with pytest.raises(InputError, match=r"^backbone: outside the folders"):
        dept_retrain.fn(Retraining(backbone=str(tmp_path)))
    assert not home().exists()


@pytest.mark.parametrize("tag", ["../../elsewhere", "/tmp/elsewhere", "", ".."])
def test_a_tag_of_mlflow_names_no_folder(tag):
    """Where the ledger does not know a champion, its fingerprint is what a tag says."""

    class Tracker:
        is_server = True

        def download(self, uri, folder):
            raise AssertionError(f"{uri} would be written to {folder}")

    fields = dict.fromkeys(field.name for field in dataclasses.fields(Champion))
    found = Champion(**fields | {"name": "dept-x", "fingerprint": tag, "source": "models:/dept-x/1"})
    with pytest.raises(InputError, match=r"fingerprint .* cannot name a file"):
        adapter_folder(found, None, Tracker())
