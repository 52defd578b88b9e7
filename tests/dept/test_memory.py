"""What a step computes at once follows from model and device; `dept tune` alone measures and remembers."""

import itertools
import json
import math

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones import compiled, tuned
from dept.backbones.backbone import Backbone
from dept.backbones.cpu_linear import PackedLinear
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine import memory, tune
from dept.engine.train import Trial, train


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


def remember(backbone, **found):
    file = tuned.place(backbone.config, backbone.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(tuned.body_of(tuned.Tuned(**found), {})))
    return file


def test_the_budget_is_a_rule_and_leaves_no_file(tiny, tmp_path, monkeypatch):
    """The same on a busy machine with little memory free as on a quiet one, from within evaluation too."""
    files = sorted((tmp_path / "cache").rglob("*"))  # of loading
    first = memory.token_budget(tiny)
    assert math.log2(first).is_integer()
    monkeypatch.setattr("psutil.virtual_memory", lambda: pytest.fail("what happens to be free decides nothing"))
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("nor does a clock"))
    with torch.inference_mode():
        assert memory.token_budget(tiny) == first
    assert sorted((tmp_path / "cache").rglob("*")) == files


def test_wide_models_and_short_numbers_get_smaller_budgets(tiny_llama, monkeypatch):
    budgets = []
    for d, dtype in ((576, torch.float32), (576, torch.bfloat16), (4096, torch.float32), (10**7, torch.float32)):
        monkeypatch.setattr(type(tiny_llama), "d", d)
        monkeypatch.setattr(type(tiny_llama), "dtype", dtype)
        budgets.append(memory.token_budget(tiny_llama))
    assert budgets == [2048, 1024, 256, 128]


def test_on_cuda_the_budget_follows_from_the_memory(tiny_llama, monkeypatch):
    monkeypatch.setattr(type(tiny_llama), "device", torch.device("cuda:0"))
    budgets = []
    for gibibytes in (1, 8, 80, 10_000):
        memory_of = type("Properties", (), {"total_memory": gibibytes * 2**30})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=memory_of: found)
        budgets.append(memory.budget_by_rule(tiny_llama))
    assert budgets == sorted(budgets)
    assert budgets[-1] == 65_536
    monkeypatch.setattr(tiny_llama.config, "num_hidden_layers", 10**8)
    assert memory.budget_by_rule(tiny_llama) == 512


def test_what_tune_wrote_is_used_and_nothing_else(tiny_llama, tiny_folders):
    rule = memory.token_budget(tiny_llama)
    file = remember(tiny_llama, token_budget=384, packed=False)
    assert memory.token_budget(tiny_llama) == 384
    again = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu")
    assert not again.packed
    assert not any(isinstance(module, PackedLinear) for module in again.modules())
    tiny_llama.sharded = True  # ranks must cut alike
    assert memory.token_budget(tiny_llama) == rule
    tiny_llama.sharded = False
    for damaged in ('{"found": {"token_bu', '{"found": {"token_budget": "many"}}', "[]", '{"found": {"other": 1}}'):
        file.write_text(damaged)
        assert memory.token_budget(tiny_llama) == rule


def test_provenance_names_what_is_used(tiny_llama):
    found = memory.provenance(tiny_llama)
    assert found["token_budget"] == memory.token_budget(tiny_llama)
    assert found["packed"] is tiny_llama.packed
    assert (found["device"], found["threads"], found["tuned"]) == ("cpu", torch.get_num_threads(), False)
    assert found["torch"] == torch.__version__
    json.dumps(found)
    remember(tiny_llama, token_budget=384)
    assert memory.provenance(tiny_llama)["tuned"] is True


def script(monkeypatch, seconds):
    """Steps take what `seconds(backbone, tokens)` says; compiling does nothing."""
    monkeypatch.setattr(tune, "seconds_of", seconds)
    monkeypatch.setattr(tune, "compile_layers", lambda _: False)


def test_tune_takes_what_is_faster_beyond_doubt(tiny_llama, tmp_path, monkeypatch):
    """A step costs as much as 10,000 tokens whatever its size, so more at once is better; plain layers are slower."""
    rule = memory.budget_by_rule(tiny_llama)

    def seconds(backbone, tokens):
        plain = any(module.plain for module in backbone.modules() if isinstance(module, PackedLinear))
        return (10_000 + tokens) * (2 if plain else 1)

    script(monkeypatch, seconds)
    report = tune.tune(tiny_llama)
    assert report.after.token_budget == 4 * rule == memory.token_budget(tiny_llama)
    assert report.after.packed is None
    assert report.changed == [f"token budget: by rule -> {4 * rule}"]
    assert report.file.is_file()
    assert report.file.is_relative_to(tmp_path / "cache" / "tuning")
    names = [line.what for line in report.lines]
    assert f"token budget {rule}" in names
    assert {"packed weights", "plain weights"} <= set(names)
    monkeypatch.setattr(tune, "seconds_of", lambda *_: 1e-9 * _[1])  # all the same: back to the rule
    assert tune.tune(tiny_llama).changed == [f"token budget: {4 * rule} -> by rule"]
    assert memory.token_budget(tiny_llama) == rule


def test_tune_measures_in_turns_and_does_not_believe_noise(tiny_llama, monkeypatch):
    """Under load that comes and goes every option swings by half: nothing is better beyond doubt."""
    rule, order, swing = memory.budget_by_rule(tiny_llama), [], itertools.cycle([1.0, 1.5, 0.8])

    def seconds(_, tokens):
        order.append(tokens)
        return tokens * next(swing)

    script(monkeypatch, seconds)
    report = tune.tune(tiny_llama, rounds=5)
    assert report.after == tuned.Tuned()
    first = [rule // 4, rule // 2, rule, rule * 2, rule * 4]
    assert order[:10] == first * 2
    assert all(line.low < line.rate < line.high for line in report.lines if math.isfinite(line.rate))


def test_tune_leaves_out_what_does_not_fit(tiny_llama, monkeypatch):
    rule = memory.budget_by_rule(tiny_llama)

    def seconds(_, tokens):
        if tokens > 2 * rule:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return 1.0

    script(monkeypatch, seconds)
    assert tune.tune(tiny_llama, write=False).after.token_budget == 2 * rule
    assert memory.token_budget(tiny_llama) == rule  # not written

    def broken(*_):
        raise RuntimeError("shapes do not match")

    script(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="shapes"):
        tune.tune(tiny_llama)


def test_tune_really_measures_and_leaves_the_backbone_as_it_was(tiny_llama):
    report = tune.tune(tiny_llama, rounds=2, write=False)
    assert any(math.isfinite(line.rate) and line.rate > 0 for line in report.lines)
    assert not any(module._compiled_call_impl is not None for module in tiny_llama.modules())
    assert not any(module.plain for module in tiny_llama.modules() if isinstance(module, PackedLinear))


def test_compiled_where_it_is_asked_for_and_works(tiny_folders, monkeypatch):
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", self.forward)
    )
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu", compile=True)
    found = [m for m in backbone.modules() if m._compiled_call_impl is not None]
    assert found
    assert backbone.compiled
    assert all(type(m).__name__.endswith(("Norm", "MLP")) for m in found)

    def broken(*_):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", broken))
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu", compile=True)
    assert not backbone.compiled
    assert not any(m._compiled_call_impl is not None for m in backbone.modules())
    assert compiled.parts_of(backbone.model)


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
def test_bfloat16_backbone_float32_adapter(tiny_folders, family):
    """What CUDA runs by default, here on the CPU: adapter and moments stay float32, losses are near float32's."""
    config, words = AdapterConfig(m=3, r=2, s=16), ("negative", "positive")
    curves = []
    for dtype in ("bfloat16", "float32"):
        backbone = Backbone.from_pretrained(str(tiny_folders[family]), dtype=dtype, device="cpu")
        rows = encode(backbone.tokens, ["the film was good", "bad plot"], words, [1, 0], config)
        start = from_text(backbone, config, "a good film", 0)
        trial = Trial("only", start, TrainConfig(steps=8, batch_size=2, lr_prompt=0.05), rows, rows)
        result = train([trial], backbone, EngineOptions(token_budget=128))["only"]
        assert isinstance(result.adapter, Adapter)
        assert result.failure is None
        assert {p.dtype for p in (result.adapter.prompt, result.adapter.a, result.adapter.b)} == {torch.float32}
        curves.append([loss for _, loss in result.state.loss_curve])
    low, full = map(torch.tensor, curves)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.05)
    assert full[-1] < full[0]
