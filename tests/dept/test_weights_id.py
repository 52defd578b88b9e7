"""A backbone's id is of the files that are loaded, and of those that turn text into ids, wherever they lie."""

import fnmatch
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones import files
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.config import AdapterConfig


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tiny_folders, tmp_path):
    return shutil.copytree(tiny_folders["gpt2"], tmp_path / "copy")


def as_bin(folder):
    """The same weights in torch's older file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return model


def test_a_stray_file_beside_what_is_loaded_decides_nothing(folder):
    model = as_bin(folder)
    first = files.weights_id(folder)
    for name in ("stray.safetensors", "adapter_model.safetensors", "consolidated.00.safetensors"):
        save_file({"transformer.wte.weight": torch.zeros(2, 2)}, folder / name)
    assert files.weights_of(folder) == [folder / "pytorch_model.bin"]
    assert files.weights_id(folder) == first
    (folder / "adapter_model.safetensors").unlink()  # else transformers would look for what it adapts
    loaded = Backbone.from_pretrained(str(folder), device="cpu")
    torch.testing.assert_close(loaded.model.state_dict(), model.state_dict())
    model.transformer.wte.weight.data += 1
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert files.weights_id(folder) != first


def test_parts_count_by_their_index(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    parts = files.weights_of(folder)
    assert len(parts) > 1
    assert parts == sorted(folder.glob("model-*.safetensors"))
    first = files.weights_id(folder)
    (folder / "model-99999-of-99999.safetensors").write_bytes(b"of another upload")
    assert files.weights_id(folder) == first
    parts[0].write_bytes(parts[0].read_bytes() + b"x")
    assert files.weights_id(folder) != first
    shutil.copy(parts[1], folder / "model.safetensors")  # which transformers takes before an index
    assert files.weights_of(folder) == [folder / "model.safetensors"]


def test_adapters_of_ids_that_stray_files_decided_still_fit(folder, tmp_path):
    as_bin(folder)
    save_file({"x": torch.zeros(2, 2)}, folder / "stray.safetensors")
    backbone = Backbone.from_pretrained(str(folder), device="cpu")
    older = files._first_kind_id(folder)
    assert older != backbone.weights_id
    adapter = from_text(backbone, AdapterConfig(m=2, r=2, s=8), "good or bad?", 0)
    adapter.save(tmp_path / "old", backbone_id=older)
    backbone.check_adapter(Adapter.load(tmp_path / "old"))


def test_a_hub_id_and_its_local_copy_have_one_id(folder, tmp_path, monkeypatch):
    """The hub's cache holds links to blobs; a clone holds more files than are fetched."""
    import huggingface_hub

    repo, commit = tmp_path / "hub" / "models--team--model", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in folder.iterdir():
        shutil.copy(file, repo / "blobs" / file.name)
        (repo / "snapshots" / commit / file.name).symlink_to(Path("../../blobs") / file.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("README.md", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.onnx"):
        (folder / name).write_bytes(b"beside")
    hub = describe("team/model")
    assert hub.folder == repo / "snapshots" / commit
    assert hub.backbone_id == describe(str(folder)).backbone_id


def test_a_hub_repository_of_older_weights_is_fetched_whole(folder, monkeypatch):
    """A stray file in the newer format stands for no weights."""
    asked = []
    as_bin(folder)
    save_file({"x": torch.zeros(2, 2)}, folder / "stray.safetensors")
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.append(allow_patterns[-1]) or str(folder),
    )
    (folder / "pytorch_model.bin").unlink()
    files.folder_of("team/model")
    assert asked == ["*.safetensors", "pytorch_model*.bin"]


def test_every_file_that_a_tokenizer_of_transformers_reads_is_in_it():
    """By the names that its tokenizers give their files."""
    named = set()
    for file in (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py"):
        for body in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", file.read_text(encoding="utf-8"), re.DOTALL):
            named.update(re.findall(r':\s*"([^"]+)"', body))
    assert len(named) > 20
    patterns = (*files._TOKENS, *files._RARE)
    assert [name for name in sorted(named) if not any(fnmatch.fnmatch(name, one) for one in patterns)] == []


def test_the_number_type_is_no_part_of_it(folder):
    ids = {describe(str(folder), dtype=dtype).backbone_id for dtype in ("float32", "bfloat16", "float64")}
    ids |= {Backbone.from_pretrained(str(folder), dtype, device="cpu").weights_id for dtype in ("float32", "bfloat16")}
    assert len(ids) == 1


def test_where_answers_end_is_in_it(folder):
    """generation_config.json ends answers as well as config.json does; where both say the same, the id is as it was."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    without, ends = files.weights_id(folder), describe(str(folder)).tokens.end_ids
    for same in (ends[0], list(ends), [ends[0], ends[0]]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": same}))
        assert files.weights_id(folder) == without
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, *ends]}))
    assert describe(str(folder)).tokens.end_ids[:2] != ends
    assert files.weights_id(folder) != without
    assert without in files.legacy_ids(folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    without = files.weights_id(folder)  # the tokenizer names the end as well
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends[0]}))
    assert files.weights_id(folder) == without
