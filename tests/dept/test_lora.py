"""LoRA's recipe: which layers, which rank, and that it is part of the question."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, LlamaModel

from dept.baselines import lora
from dept.baselines.plain import plain_copy
from dept.baselines.train import train_baseline
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, TrainConfig
from dept.constants import CONSTANTS
from dept.trial import TrialSpec
from infra.errors import InputError

pytest.importorskip("peft", reason="peft is an optional extra: pip install 'peft>=0.17'")

SHAPE = AdapterConfig(m=4, r=2, s=24)


def spec(**changes):
    fields = {
        "backbone": "tiny",
        "backbone_id": "b" * 64,
        "task": "mood",
        "task_version": 1,
        "data_hash": "d" * 64,
        "role": "target",
        "init": "scratch",
        "shots": 4,
        "prompt_text": "x",
        "adapter": SHAPE,
        "training": TrainConfig(steps=2),
        "test_rows": 5,
    }
    return TrialSpec(**(fields | changes))


def test_the_layers_and_numbers_are_those_of_pefts_all_linear(tiny):
    from peft import LoraConfig, get_peft_model

    auto = AutoModelForSeq2SeqLM if tiny.family == "seq2seq" else AutoModelForCausalLM
    model = auto.from_pretrained(tiny.folder).eval()
    counted, names = lora.numbers(model), {id(layer) for layer in lora.layers(model)}
    head = model.get_output_embeddings()
    assert id(head) not in names
    fan = tiny.config.model_type == "gpt2"
    theirs = get_peft_model(model, LoraConfig("CAUSAL_LM", r=3, target_modules="all-linear", fan_in_fan_out=fan))
    assert theirs.get_nb_trainable_parameters()[0] == 3 * counted
    for budget, rank in ((0, 1), (counted - 1, 1), (2 * counted, 2), (3 * counted - 1, 2)):
        assert lora.rank_of("lora", auto.from_pretrained(tiny.folder), budget) == rank
        assert lora.rank_of("lora-r8", auto.from_pretrained(tiny.folder), budget) == 8


def test_a_model_without_linear_layers_is_named():
    with pytest.raises(InputError, match="a llama model has no linear layers"):
        lora.layers(LlamaModel(LlamaConfig(num_hidden_layers=0, hidden_size=32, vocab_size=8)))


def test_a_method_trains_at_its_own_rank_and_scale(tiny_llama, tmp_path):
    texts = ["good film", "bad film"]
    rows = encode(tiny_llama.tokens, texts, ("negative", "positive"), [1, 0], AdapterConfig(s=24))
    each = lora.numbers(plain_copy(tiny_llama).bare.model)
    for method, budget, rank in (("lora", 2 * each, 2), ("lora", 8, 1), ("lora-r8", 8, 8)):
        with train_baseline(method, tiny_llama, rows, (), TrainConfig(steps=1), seed=0, budget=budget) as baseline:
            assert (baseline.rank, baseline.trainable) == (rank, rank * each)
            baseline.save(tmp_path / f"{method}{rank}")
        folder = tmp_path / f"{method}{rank}"
        config = json.loads((folder / "adapter_config.json").read_text())
        manifest = json.loads((folder / "baseline.json").read_text())
        assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (rank, 32, False)
        assert config["target_modules"] == sorted(config["target_modules"])
        assert (manifest["method"], manifest["rank"]) == (method, rank)
    with train_baseline("full", tiny_llama, rows, (), TrainConfig(steps=1), seed=0, budget=9) as baseline:
        assert baseline.rank is None
    assert not any("lora" in name for name, _ in plain_copy(tiny_llama).bare.model.named_parameters())


def test_the_recipe_is_part_of_the_question_and_old_trials_are_read(monkeypatch):
    methods = ("dept", "lora", "lora-r8", "full")
    now = {method: spec(method=method).fingerprint for method in methods}
    assert len(set(now.values())) == 4
    old = TrialSpec.model_validate(spec(method="lora").model_dump())  # as a ledger of before holds it
    assert (old.variant, old.label) == ("lora", "mood/k4/s0/lora")
    monkeypatch.setitem(CONSTANTS, "lora", CONSTANTS["lora"] | {"alpha": 8})
    assert spec(method="lora").fingerprint not in now.values()
    monkeypatch.delitem(CONSTANTS, "lora")
    without = {method: spec(method=method).fingerprint for method in methods}
    assert without["lora"] not in now.values()  # the recipe of before had no constants
    assert all(without[method] == now[method] for method in methods if method != "lora")
