import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dept.adapters.adapter import Adapter
from dept.backbones import loading
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from infra.errors import InputError
from tests.encoders import save_encoder
from tests.tiny import WORDS, save_backbone


def adapter_for(backbone, m=2, s=6, r=2):
    return Adapter(torch.zeros(m, backbone.d), torch.zeros(s, r), torch.zeros(r, backbone.d))


@pytest.fixture
def folder(tiny_folders, tmp_path):
    """A copy of the tiny llama that a test may change."""
    return shutil.copytree(tiny_folders["llama"], tmp_path / "tiny-llama")


def load(folder, **options):
    return Backbone.from_pretrained(str(folder), device="cpu", **options)


def refused(folder, *said, **options):
    with pytest.raises(InputError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message, message


def test_an_unknown_name_names_the_remedy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("smolm2-135m", "no-such-team/no-such-model"):
        refused(name, f"backbone {name!r} cannot be loaded: HF_HUB_OFFLINE is set", "Remedy: one of smollm2-135m")


def test_folders_without_a_model(tmp_path, folder):
    refused(tmp_path, "the folder holds no config.json")
    refused(tmp_path / "nowhere", "no such folder")
    refused("./nowhere", "no such folder")
    refused("~/nowhere-at-all", "no such folder")
    (folder / "model.safetensors").unlink()
    refused(folder, "cannot be loaded", "Remedy")


def test_damaged_files(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for damage in (b"", whole[:20], whole[: len(whole) // 2], b"\x80\x04pickle", b"\xff" * len(whole)):
        (folder / "model.safetensors").write_bytes(damage)
        refused(folder, "cannot be loaded", "Remedy")
    (folder / "model.safetensors").write_bytes(whole)
    for file in ("tokenizer.json", "config.json"):
        kept = (folder / file).read_bytes()
        (folder / file).write_bytes(kept[:100])
        refused(folder, "cannot be loaded", "Remedy")
        (folder / file).write_bytes(kept)
    assert load(folder).d == 32


def test_weights_that_are_missing_are_not_made_up(folder, caplog):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "its files hold no weights model.layers.1.mlp.up_proj.weight. Remedy")
    assert caplog.records == []  # no table of transformers beside the message


def test_weights_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "cannot be loaded")


def test_an_encoder_without_the_weights_of_its_head_is_refused(tmp_path):
    folder = save_encoder(tmp_path / "bert", "bert", words=False)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("BertModel", "BertForMaskedLM"))
    refused(folder, "its files hold no weights cls.predictions", "Remedy: restore the files")


def test_a_model_without_a_head_is_refused(tiny_folders):
    from transformers import LlamaModel

    with pytest.raises(InputError, match="a llama model without a language-modelling head"):
        Backbone.of(LlamaModel.from_pretrained(tiny_folders["llama"]))


def test_unknown_number_type_and_device(folder):
    refused(folder, "unknown dtype 'float12'; known: float32, bfloat16, float64, int8, nf4", dtype="float12")
    for device in ("abacus", "cuda:99", "cpu:x"):
        with pytest.raises(InputError, match=f"device '{device}' is not there"):
            Backbone.from_pretrained(str(folder), device=device)


def test_frozen_for_good(tiny):
    assert len(list(tiny.parameters())) > 5
    assert not any(parameter.requires_grad for parameter in tiny.parameters())
    assert tiny.train() is tiny
    assert not any(module.training for module in tiny.modules())
    adapter = adapter_for(tiny)
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    labels = torch.tensor([[5, 6]])
    tiny(adapter, torch.tensor([[5, 6]]), labels=labels).loss.backward()
    assert adapter.prompt.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_train_mode_brings_no_dropout(tiny_folders):
    backbone = load(tiny_folders["t5"])  # its dropout rate is 0.1
    adapter, ids = adapter_for(backbone), torch.tensor([[5, 6, 7]])
    first = backbone(adapter, ids, labels=ids).loss
    assert torch.equal(backbone.train()(adapter, ids, labels=ids).loss, first)


def test_weights_id_is_of_the_bytes(folder, tmp_path):
    first = load(folder).weights_id
    assert len(first) == 64
    assert load(shutil.copytree(folder, tmp_path / "other-name")).weights_id == first
    assert load(folder, dtype="bfloat16").weights_id == first  # the number type is a field of its own
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = load(folder).weights_id
    assert changed != first
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert load(folder).weights_id not in (first, changed)


def test_weights_id_without_files(folder):
    first, second = load(folder), load(folder)
    bare = Backbone.of(first.model, first.tokenizer)
    with torch.no_grad():
        assert Backbone.of(second.model).weights_id == bare.weights_id
        second.model.get_input_embeddings().weight[0, 0] += 1
    assert Backbone.of(second.model).weights_id != bare.weights_id
    assert Backbone.of(load(folder, dtype="bfloat16").model).weights_id != bare.weights_id  # no NumPy type of its own


def test_text_longer_than_s(tiny):
    adapter = adapter_for(tiny, s=6)
    labels = torch.full((1, 6), 5)
    assert tiny(adapter, torch.full((1, 6), 7), labels=labels).loss.isfinite()
    with pytest.raises(InputError, match="7 tokens; 1 to s=6 fit"):
        tiny(adapter, torch.full((1, 7), 7), labels=torch.full((1, 7), 5))
    padded = torch.cat([torch.ones(1, 6), torch.zeros(1, 3)], 1)
    assert tiny(adapter, torch.full((1, 9), 7), padded, torch.full((1, 9), 5)).loss.isfinite()  # 6 are text
    with pytest.raises(InputError, match="0 to 6 tokens"):
        tiny(adapter, torch.full((2, 6), 7), torch.tensor([[1] * 6, [0] * 6]), labels.expand(2, -1))


def test_an_encoder_decoder_needs_labels(tiny_folders):
    backbone = load(tiny_folders["t5"])
    with pytest.raises(InputError, match="needs labels"):
        backbone(adapter_for(backbone), torch.tensor([[5, 6]]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_learned_positions_end(tiny_folders, family):
    backbone = load(tiny_folders[family])
    backbone.check_room(56, 200)
    with pytest.raises(InputError, match=r"tiny-\w+ has 256 positions; m \+ s = 257\. Remedy: a smaller s or m"):
        backbone.check_room(57, 200)


def test_relative_positions_do_not_end(tiny_folders):
    backbone = load(tiny_folders["t5"])
    backbone.config.n_positions = 512  # as t5-base's file says, of a length that binds nothing
    backbone.check_room(100, 10_000)


def test_words_that_look_the_same(tmp_path):
    from tests.registry.registry_helpers import save_tiny_backbone

    backbone = load(save_tiny_backbone(tmp_path / "words"))  # knows whole words only: others are all <unk>
    assert len(set(backbone.tokens.encode_words(("good", "bad")))) == 2
    with pytest.raises(InputError, match=r"words \['splendid', 'dreadful'\] are not told apart by the tokenizer of"):
        backbone.tokens.encode_words(("splendid", "dreadful"))


def test_a_word_that_begins_another_gets_an_end(tiny_folders):
    for family in ("llama", "gpt2"):
        backbone = load(tiny_folders[family])
        end = backbone.tokenizer.eos_token_id
        plain = backbone.tokens.encode_words(("good", "bad"))
        assert all(end not in candidate for candidate in plain)
        short, long, other = backbone.tokens.encode_words(("good", "good film", "bad"))
        assert short == (*plain[0], end)
        assert other == (*plain[1], end)
        assert long[: len(plain[0])] == plain[0]
        assert long[-1] == end
        assert backbone.tokenizer.decode(long[:-1]) == " good film"


def test_words_follow_the_text_as_they_would_be_written(tiny_llama):
    for word, candidate in zip(WORDS, tiny_llama.tokens.encode_words(tuple(dict.fromkeys(WORDS))), strict=False):
        assert tiny_llama.tokenizer.decode(candidate) == f" {word}"


def test_family_and_width(tiny_folders, tmp_path):
    for family, kind in (("t5", "seq2seq"), ("gpt2", "causal"), ("llama", "causal")):
        backbone = load(tiny_folders[family])
        assert (backbone.family, backbone.d, backbone.name) == (kind, 32, f"tiny-{family}")
    other = save_backbone(tmp_path / "Llama-Two", "llama", seed=1)
    assert load(other).name == "llama-two"
    assert load(other).weights_id != load(tiny_folders["llama"]).weights_id


@pytest.mark.parametrize("beyond", [0, 10**6])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_a_padding_id_outside_the_table_is_replaced(tmp_path, tiny_folders, kind, beyond):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folders[kind], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": config["vocab_size"] + beyond}))
    made = Backbone.from_pretrained(str(folder), device="cpu")
    assert 0 <= made.pad_id < config["vocab_size"]


@pytest.mark.parametrize("dtype", ["int8", "nf4", "int8-torchao"])
def test_weights_of_few_bits_are_refused_without_cuda(folder, dtype):
    refused(
        folder,
        f"dtype {dtype}: frozen weights of 8 and 4 bits need a CUDA device, and this is cpu. Remedy",
        dtype=dtype,
    )
    with pytest.raises(InputError, match=f"dtype {dtype}: .* need a CUDA device"):
        describe(str(folder), dtype=dtype, device="cpu")


@pytest.mark.parametrize("inside", [False, True])
def test_files_that_are_quantised_already_are_refused_without_cuda(folder, inside):
    """bitsandbytes' 4 bits on a CPU, and torchao's of activations, have no derivative: prompts learned nothing."""
    config = json.loads((folder / "config.json").read_text())
    how = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (folder / "config.json").write_text(json.dumps(config | ({"text_config": how} if inside else how)))
    said = r"its files hold quantised weights \(bitsandbytes\), which need a CUDA device, and this is cpu\. Remedy"
    with pytest.raises(InputError, match=said):
        load(folder)
    with pytest.raises(InputError, match=said):
        describe(str(folder), device="cpu")
    with pytest.raises(InputError, match=r"quantised weights \(bitsandbytes\) already\. Remedy: leave dtype nf4 out"):
        describe(str(folder), dtype="nf4", device="cuda")
    describe(str(folder))  # of a pool, whose devices are not known


def test_how_few_bits_are_asked_for(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="bitsandbytes is not installed"):
        loading.quantised("nf4", torch.device("cuda:1"))
    with pytest.raises(InputError, match=r"torchao is not installed\. Remedy: pip install torchao"):
        loading.quantised("int8-torchao", torch.device("cuda:1"))
    monkeypatch.setattr(loading, "find_spec", lambda _: "there")
    four, eight = (loading.quantised(name, torch.device("cuda:1")) for name in ("nf4", "int8"))
    assert four["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16
    assert (four["quantization_config"].load_in_4bit, four["quantization_config"].bnb_4bit_quant_type) == (True, "nf4")
    assert (eight["quantization_config"].load_in_8bit, eight["device_map"]) == (True, {"": torch.device("cuda:1")})
