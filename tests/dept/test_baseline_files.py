"""What baselines leave behind, and what they refuse."""

import hashlib
import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dept.baselines.plain import plain_copy, release
from dept.baselines.train import train_baseline
from infra.errors import InputError
from tests.dept.test_baselines import CONFIG, bits, plain, rows_of, scores_by_hand


def test_lora_files_are_those_of_peft(tiny, tmp_path):
    from peft import PeftModel

    rows = rows_of(tiny)
    baseline = train_baseline("lora", tiny, rows, rows, CONFIG, seed=0)
    digest = baseline.save(tmp_path / "a", fingerprint="f")
    assert baseline.save(tmp_path / "b", fingerprint="f") == digest == baseline.save(tmp_path / "a", fingerprint="f")
    folder = tmp_path / "a"
    files = {"adapter_config.json", "adapter_model.safetensors", "baseline.json"}
    assert {file.name for file in folder.iterdir()} == files
    assert {path.name for path in tmp_path.iterdir()} >= {"a", "b"}
    assert not list(tmp_path.glob(".a-*"))
    assert hashlib.sha256((folder / "baseline.json").read_bytes()).hexdigest() == digest
    manifest = json.loads((folder / "baseline.json").read_text())
    assert manifest["files"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(files - {"baseline.json"})
    }
    assert manifest["metadata"] == {"fingerprint": "f"}
    assert manifest["backbone_id"] == tiny.weights_id
    assert str(tiny.folder) not in (folder / "adapter_config.json").read_text()
    loaded = PeftModel.from_pretrained(plain(tiny), str(folder)).eval().base_model.model
    for row, found in zip(rows, baseline.score(rows), strict=True):
        assert found == pytest.approx(scores_by_hand(loaded, row), abs=1e-4)


def test_full_keeps_its_weights_on_request_alone(tiny, tmp_path):
    rows = rows_of(tiny)
    baseline = train_baseline("full", tiny, rows, (), CONFIG.model_copy(update={"lr_prompt": 1e-3}), seed=0)
    without = baseline.save(tmp_path / "without")
    assert [file.name for file in (tmp_path / "without").iterdir()] == ["baseline.json"]
    manifest = json.loads((tmp_path / "without" / "baseline.json").read_text())
    assert manifest["weights"].startswith("not kept")
    assert baseline.save(tmp_path / "kept", keep_weights=True) != without
    auto = AutoModelForSeq2SeqLM if tiny.family == "seq2seq" else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "kept").eval()
    for row, found in zip(rows, baseline.score(rows), strict=True):
        assert found == pytest.approx(scores_by_hand(loaded, row), abs=1e-4)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        baseline.save(tmp_path / "file" / "below")


def test_one_baseline_at_a_time(tiny_llama, tmp_path):
    rows = rows_of(tiny_llama)
    first = train_baseline("lora", tiny_llama, rows, (), CONFIG, seed=0)
    second = train_baseline("full", tiny_llama, rows, (), CONFIG, seed=0)
    for use in (lambda: first.score(rows), lambda: first.save(tmp_path / "x")):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    first.close()  # of no concern to the second
    assert second.score(rows)
    assert second.score([]) == []
    release(tiny_llama)
    with pytest.raises(RuntimeError, match="closed"):
        second.score(rows)
    second.close()

    calls = []

    def stop(tokens):
        calls.append(tokens)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_baseline("full", tiny_llama, rows, (), CONFIG, seed=0, on_tokens=stop)
    before, copy = bits(tiny_llama), plain_copy(tiny_llama).bare.model
    assert all(torch.equal(p, before[n]) for n, p in copy.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in copy.parameters())


def test_bad_input_names_the_remedy(tiny_llama, monkeypatch):
    rows = rows_of(tiny_llama)
    with pytest.raises(InputError, match="known: lora, lora-r8, full"):
        train_baseline("ia3", tiny_llama, rows, (), CONFIG, seed=0)
    with pytest.raises(InputError, match="no rows"):
        train_baseline("full", tiny_llama, [], (), CONFIG, seed=0)
    for module in [name for name in sys.modules if name == "peft" or name.startswith("peft.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "peft", None)  # what Python itself does for a module that must not be imported
    with pytest.raises(InputError, match=r'Remedy: pip install "peft>=0.17"'):
        train_baseline("lora", tiny_llama, rows, (), CONFIG, seed=0)
    assert train_baseline("full", tiny_llama, rows, (), CONFIG, seed=0).state.failure is None
