"""What is measured once: the token budget grows until memory or speed says stop, and is remembered."""

import json

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones.backbone import Backbone
from dept.batches.batching import encode
from dept.config import AdapterConfig, TrainConfig
from dept.engine import memory as tuning
from dept.engine.train import Trial, train


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


def test_grows_for_as_long_as_it_gets_faster(tiny_llama, monkeypatch):
    # A step costs as much as 400 tokens, whatever its size: doubling 1024 brings less than a tenth.
    monkeypatch.setattr(tuning, "seconds_of", lambda _, tokens: 400 + tokens)
    assert tuning.grow(tiny_llama) == 2048
    monkeypatch.setattr(tuning, "seconds_of", lambda _, tokens: tokens)
    assert tuning.grow(tiny_llama) == tuning.SMALLEST
    monkeypatch.setattr(tuning, "seconds_of", lambda _, tokens: 1.0)
    assert tuning.grow(tiny_llama) == tuning.LARGEST


def test_stops_where_memory_ends(tiny_llama, monkeypatch):
    def short(_, tokens):
        if tokens > 600:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return 1.0

    monkeypatch.setattr(tuning, "seconds_of", short)
    assert tuning.grow(tiny_llama) == 512
    grown = iter(range(0, 10**15, 10**12))  # each look at the peak finds a terabyte more
    monkeypatch.setattr(tuning, "_peak_bytes", lambda _: next(grown))
    monkeypatch.setattr(tuning, "seconds_of", lambda _, tokens: 1.0)
    assert tuning.grow(tiny_llama) == tuning.SMALLEST


def test_another_error_is_not_taken_for_lack_of_memory(tiny_llama, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(tuning, "seconds_of", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        tuning.grow(tiny_llama)


def test_measured_once_and_remembered(tiny_llama, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(tuning, "grow", lambda backbone: asked.append(backbone) or 384)
    assert [tuning.token_budget(tiny_llama) for _ in range(3)] == [384] * 3
    assert len(asked) == 1
    (file,) = (tmp_path / "cache" / "tuning").glob("*.json")
    assert json.loads(file.read_text())["budget torch.float32"] == 384
    file.write_text('{"budget torch.flo')  # truncated: measured again
    assert tuning.token_budget(tiny_llama) == 384
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_costs_a_measurement(tiny_llama, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tuning, "grow", lambda _: 384)
    assert tuning.token_budget(tiny_llama) == 384


@pytest.mark.parametrize("inference", [False, True])
def test_really_measures(tiny, inference):
    """Also from within evaluation, where no gradients are wanted."""
    with torch.inference_mode(inference):
        assert tuning.SMALLEST <= tuning.token_budget(tiny) <= tuning.LARGEST


def test_sharded_backbones_keep_a_fixed_budget(tiny_llama, monkeypatch):
    monkeypatch.setattr(tuning, "grow", lambda _: 384)
    monkeypatch.setattr(tiny_llama, "sharded", True)
    assert tuning.token_budget(tiny_llama) == 512


@pytest.mark.parametrize(("seconds", "used"), [(1.0, True), (1.99, False), (None, False)])
def test_compiled_code_stays_only_where_it_is_faster(tiny_folders, monkeypatch, seconds, used):
    def seconds_of(backbone, _):
        if not any(m._compiled_call_impl is not None for m in backbone.modules()):
            return 2.0
        if seconds is None:
            raise RuntimeError("no compiler here")
        return seconds

    monkeypatch.setattr(tuning, "seconds_of", seconds_of)
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu", compile=True)
    compiled = [m for m in backbone.modules() if m._compiled_call_impl is not None]
    assert bool(compiled) == used
    assert all(type(m).__name__.endswith(("Norm", "MLP")) for m in compiled)


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
def test_bfloat16_backbone_float32_adapter(tiny_folders, family):
    """What CUDA runs by default, here on the CPU: adapter and moments stay float32, losses are near float32's."""
    config, words = AdapterConfig(m=3, r=2, s=16), ("negative", "positive")
    curves = []
    for dtype in ("bfloat16", "float32"):
        backbone = Backbone.from_pretrained(str(tiny_folders[family]), dtype=dtype, device="cpu")
        rows = encode(backbone, ["the film was good", "bad plot"], words, [1, 0], config)
        start = from_text(backbone, config, "a good film", 0)
        trial = Trial("only", start, TrainConfig(steps=8, batch_size=2, lr_prompt=0.05), rows, rows)
        result = train([trial], backbone, budget=128)["only"]
        assert isinstance(result.adapter, Adapter)
        assert result.failure is None
        assert {p.dtype for p in (result.adapter.prompt, result.adapter.a, result.adapter.b)} == {torch.float32}
        curves.append([loss for _, loss in result.state.loss_curve])
    low, full = map(torch.tensor, curves)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.05)
    assert full[-1] < full[0]
