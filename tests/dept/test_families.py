"""Of many kinds of models: scores, gradients and new tokens are the model's own, or it is refused."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.backbones import masks, self_test, ways
from dept.backbones.backbone import Backbone
from dept.backbones.chains import run_chains
from dept.backbones.describe import describe
from dept.backbones.sizes import room_of
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, TrainConfig
from dept.engine.evaluate import Request, score
from dept.engine.features import features
from dept.engine.train import Trial, train
from dept.trial import TrialSpec
from infra.errors import InputError
from tests import families

EXPECTED = {
    "llama": ("fast", "packed, masks one"),
    "gpt2": ("fast", "packed, masks one"),
    "mistral": ("fast", "packed, masks window"),
    "gemma3_text": ("fast", "packed, masks types"),
    "gpt_oss": ("fast", "packed, masks types"),
    "gpt_neo": ("slow", "equal"),
    "bloom": ("slow", "equal"),
    "lfm2": ("slow", "equal"),
    "mamba": ("slow", "equal"),
    "gemma3n_text": ("refused", "makes more of a token id than an input embedding"),
    "xlnet": ("refused", "lets tokens see what follows them"),
    "bart:s": ("fast", "packed"),
    "pegasus:s": ("fast", "packed"),
    "m2m_100:s": ("fast", "packed"),
    "t5:s": ("fast", "packed"),
    "switch_transformers:s": ("fast", "packed"),
    "bert:m": ("fast", "packed"),
    "deberta-v2:m": ("fast", "packed"),
    "longformer:m": ("fast", "packed"),
    "mobilebert:m": ("slow", "equal"),  # a token reads its neighbours' embeddings, padding's too
    "rembert:m": ("fast", "packed"),
    "ibert:m": ("refused", "cannot be run on input embeddings"),
    "idefics3:v": ("fast", "pictures packed, sees back"),
    "glm_ocr:v": ("fast", "pictures packed, sees back"),
    "qwen3_5:v": ("slow", "pictures rows, sees back"),
    "blip:v": ("refused", "names no token that stands for pictures"),
    "apertus1p5:v": ("fast", "pictures packed, sees back"),  # pictures are tokens of the vocabulary's end
    "fast_vlm:v": ("fast", "pictures packed, sees back"),  # read with timm
    "granite4_vision:v": ("slow", "pictures model, sees back"),  # added in the layers of the text part alone
    "diffusion_gemma:v": ("refused", "gives other numbers each time it is asked"),
    # Made apart from the self-test's siblings, of options that are not the default.
    "llama+": ("fast", "packed, masks one"),
    "qwen2+": ("fast", "packed, masks types"),
    "gemma2+": ("fast", "packed, masks types"),
    "granite+": ("fast", "packed, masks one, embeddings x 1"),
    "gpt2+": ("fast", "packed, masks one"),
    "t5:s+": ("fast", "packed"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_right_or_refused(name):
    found = families.tried(name)
    kind, told = EXPECTED[name]
    assert found.kind == kind, found.why
    assert told in found.why


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    for name in ("mistral", "bloom", "bart:s"):
        families.model_of(name).save_pretrained(root / name.partition(":")[0])
        families.tokenizer().save_pretrained(root / name.partition(":")[0])
    return root


def load(folder):
    return Backbone.from_pretrained(str(folder), device="cpu")


def adapter_of(backbone, **options):
    torch.manual_seed(0)
    return Adapter(torch.randn(3, backbone.d), torch.randn(12, 2), torch.randn(2, backbone.d), **options)


@pytest.mark.parametrize(("part", "wrong"), [("window_of", lambda _: 10**6), ("window_of", lambda _: 7)])
def test_a_wrong_window_is_found_out(monkeypatch, part, wrong):
    model = families.model_of("mistral")
    assert Backbone.of(model).way.masks == "window"
    monkeypatch.setattr(self_test, "_known", {})
    monkeypatch.setattr(masks, part, wrong)
    assert Backbone.of(model).way.rows == "equal"


def test_what_was_measured_is_remembered(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    found = load(folders / "mistral").way
    place = next((tmp_path / "cache" / "ways").glob("*.json"))
    monkeypatch.setattr(self_test.Test, "measure", lambda *_: pytest.fail("measured again"))
    assert load(folders / "mistral").way == found
    place.write_text(json.dumps({"way": {"rows": "packed", "masks": "any"}}))  # damaged
    monkeypatch.setattr(self_test.Test, "measure", lambda *_: ways.Way("single"))
    assert load(folders / "mistral").way.rows == "single"
    monkeypatch.setattr(ways, "version", lambda _: "another")
    monkeypatch.setattr(self_test.Test, "measure", lambda *_: ways.Way("equal"))
    assert load(folders / "mistral").way.rows == "equal"


@pytest.mark.parametrize("remembered", [False, True])
def test_quantised_weights_are_asked_for_gradients_at_each_load(monkeypatch, remembered):
    """Whether they pass any hangs on the device, which is no part of what is remembered."""
    model = families.model_of("llama")
    test = Backbone.kinds["causal"].test("mine", None)
    monkeypatch.setattr(ways, "recall", lambda *_: ways.Way() if remembered else None)
    monkeypatch.setattr(ways, "remember", lambda *_: None)
    monkeypatch.setattr(type(test), "measure", lambda *_: ways.Way())
    assert test.passes_gradients(model)
    model.config.quantization_config = {"quant_method": "mine"}
    assert self_test.way_of(test, model, "id", True) == ways.Way()
    monkeypatch.setattr(type(test), "of_embeddings", lambda self, model, embeddings: embeddings.detach()[0])
    with pytest.raises(InputError, match="quantised weights that pass no gradient"):
        self_test.way_of(test, model, "id", True)


def test_threads_come_back_where_several_measure_at_once(monkeypatch):
    """The second to come would find one thread, and keep it."""
    model, held, inside = families.model_of("llama"), [4], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: held[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda many: held.__setitem__(0, many))
    first, left = threading.Event(), threading.Event()

    def measure():
        with self_test.in_one_thread(model):
            inside.append(held[0])
            first.set()
            left.wait(0.5)

    threads = [threading.Thread(target=measure) for _ in range(2)]
    threads[0].start()
    first.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert (inside, held) == ([1, 1], [4])


def test_the_slow_way_trains_tests_and_reads(folders):
    backbone = load(folders / "bloom")
    config = AdapterConfig(m=3, r=2, s=12, alpha=1)
    rows = encode(backbone.tokens, ["the film was good", "awful"], ("bad", "very good"), [1, 0], config)
    trials = [
        Trial(f"{i}", adapter_of(backbone, alpha=1.0), TrainConfig(steps=4, lr_prompt=rate), rows, rows)
        for i, rate in enumerate((1e-2, 1e-3))
    ]
    together = train(trials, backbone)
    for trial in trials:
        alone = train([trial], backbone)[trial.key].adapter
        torch.testing.assert_close(together[trial.key].adapter.prompt, alone.prompt, atol=1e-5, rtol=0)
        assert (alone.prompt - trial.start.prompt).abs().max() > 1e-4
    adapter = adapter_of(backbone)
    found = features(backbone, [(0, row) for row in rows], (1.0,), Tensors.of([adapter], backbone.device))
    for row, ours in zip(rows, found, strict=True):
        shift = adapter.scale * (adapter.a @ adapter.b)[: len(row.source)]
        whole = torch.cat([adapter.prompt, backbone.embed(torch.tensor(row.source)) + shift])[None]
        theirs = backbone.model.transformer(inputs_embeds=whole).last_hidden_state[0, 3:].mean(0)
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=0)


def test_embeddings_are_scaled_by_the_models_own_width():
    """Of a sharded model its sibling of width 64 alone is measured."""
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}
    config = MarianConfig(vocab_size=90, d_model=36, scale_embedding=True, **sizes, **heads, **ends)
    model = MarianMTModel(config).eval()
    kind = Backbone.kinds["seq2seq"]
    for whole in (False, True):
        self_test._known.clear()
        way = kind.test("marian", lambda made, way: kind(made, None, "marian", None, way)).measure(model, whole)
        assert way.scale == 6


def test_the_slow_way_has_no_gap(folders):
    backbone = load(folders / "bloom")
    adapter = adapter_of(backbone, layout="paper")
    for run in (
        lambda: score(backbone, [adapter], [Request("good", ("bad", "good"), 0)]),
        lambda: backbone(adapter, torch.tensor([[5, 6]])),
    ):
        with pytest.raises(InputError, match=r"a bloom model is computed one text a row.* Remedy: layout adjacent"):
            run()


def test_the_public_forward_pass_of_the_slow_way(folders):
    backbone = load(folders / "bloom")
    adapter, ids = adapter_of(backbone), torch.tensor([[0, 5, 6, 7], [8, 9, 10, 11]])
    out = backbone(adapter, ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), labels=ids.masked_fill(ids == 0, -100))
    for row, real in zip(out.logits, (ids[0, 1:], ids[1]), strict=True):
        shift = adapter.scale * (adapter.a @ adapter.b)[: len(real)]
        whole = torch.cat([adapter.prompt, backbone.embed(real) + shift])[None]
        theirs = backbone.model(inputs_embeds=whole).logits[0]
        torch.testing.assert_close(row[-len(real) :], theirs[3:], atol=1e-4, rtol=0)


def test_learned_positions_of_an_encoder_decoder_end(folders):
    for backbone in (load(folders / "bart"), describe(str(folders / "bart"), device="cpu")):
        backbone.check_room(24, 40)
        with pytest.raises(InputError, match=r"bart has 64 positions; m \+ s = 65. Remedy: a smaller s or m"):
            backbone.check_room(25, 40)


def test_texts_beyond_the_positions_are_refused_before_they_run(folders):
    backbone = load(folders / "bart")
    adapter = Adapter(torch.randn(30, backbone.d), torch.randn(60, 2), torch.randn(2, backbone.d))
    asked = [Request("good " * length, ("bad", "good"), 0) for length in (34, 35)]
    assert len(score(backbone, [adapter], asked[:1])) == 1
    with pytest.raises(InputError, match=r"bart has 64 positions; m \+ s = 65"):
        score(backbone, [adapter], asked)
    with pytest.raises(InputError, match=r"bart has 64 positions; m \+ s = 65"):
        backbone(adapter, torch.ones(1, 35, dtype=torch.long), labels=torch.ones(1, 1, dtype=torch.long))


def test_many_answers_of_a_row_are_no_larger_pass_than_the_batch():
    """The slow way repeats the text for each answer of several tokens."""
    sizes = []

    def run(rows):
        sizes.append(rows.shape[0] * rows.shape[1])
        return rows * 2, []

    embeddings, front = torch.randn(1, 40, 4), torch.randn(1, 10, 4)
    columns = [torch.cat([torch.arange(10), torch.tensor([10 + i])]) for i in range(30)]
    found, _ = run_chains(run, embeddings, front, [(0, one) for one in columns], together=True)
    assert torch.equal(found, embeddings * 2)
    assert (max(sizes), sum(sizes)) == (2 * 21, 30 * 21)


def test_positions_by_configuration():
    assert room_of({"max_position_embeddings": 512, "relative_attention_num_buckets": 32}) is None
    assert room_of({"text_config": {"max_position_embeddings": 128}, "vision_config": {}}) == 128
    assert room_of({"max_encoder_position_embeddings": 16384, "max_position_embeddings": 1024}) == 16384
    long = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    assert room_of({"max_position_embeddings": 131072, "rope_parameters": long}) == 4096
    assert room_of({"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "llama3"}}) == 8192
    assert room_of({"hidden_size": 8}) is None


def test_trials_of_what_was_computed_otherwise_are_new(folders):
    assert describe(str(folders / "mistral"), device="cpu").computed == "windows"
    assert describe(str(folders / "bloom"), device="cpu").computed is None
    bart = describe(str(folders / "bart"), device="cpu")
    assert bart.computed is None
    assert replace(bart, config={"scale_embedding": True}).computed == "scale"
    causal = replace(bart, family="causal")
    assert replace(causal, config={"attention_chunk_size": 8}).computed == "windows"
    assert replace(causal, config={"sliding_window": 8, "use_sliding_window": False}).computed is None
    fields = {
        "backbone": "x",
        "backbone_id": "0" * 64,
        "task": "t",
        "task_version": 1,
        "data_hash": "1",
        "role": "target",
    }
    fields |= {"init": "scratch", "prompt_text": "p", "test_rows": 1}
    fields |= {"adapter": AdapterConfig(), "training": TrainConfig()}
    plain, new = TrialSpec(**fields), TrialSpec(**fields, computed="windows")
    assert plain.fingerprint != new.fingerprint
    assert TrialSpec(**plain.model_dump(exclude={"computed"})).fingerprint == plain.fingerprint


def test_an_encoder_is_no_causal_model():
    from transformers import BertConfig, BertLMHeadModel

    small = BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(InputError, match=r"a bert model lets tokens see what follows them.* Remedy"):
        Backbone.of(BertLMHeadModel(small))
