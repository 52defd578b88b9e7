"""Models that read pictures themselves: numbers are those of their own pass over token ids and pixels."""

import shutil
from dataclasses import replace

import pytest
import torch
import transformers as t
from transformers import AutoTokenizer

from dept.adapters.picture_cache import Kept
from dept.backbones import files, measure_seeing, vision
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.backbones.processor import Processor
from dept.backbones.token_kinds import CausalTokens
from dept.baselines import lora
from dept.baselines.text_part import trained
from dept.batches.tokenise import encode
from dept.config import AdapterConfig
from infra.errors import InputError
from tasks import picture_reader
from tasks.picture_reader import read_picture
from tests import families, seeing
from tests.seeing import TEXTS, WORDS, M, R, S

EXPECTED = {
    "llava": ("packed", "back"),
    "smolvlm": ("packed", "back"),
    "paligemma": ("rows", "prefix"),
    "gemma3": ("packed", "within"),
    "qwen2_5_vl": ("packed", "back"),
    "qwen3_vl": ("packed", "back"),
    "mllama": ("model", "back"),
}


@pytest.fixture
def pictures(tmp_path):
    return seeing.pictures_in(tmp_path)


@pytest.mark.parametrize("name", EXPECTED)
def test_scores_gradients_and_new_tokens_are_the_models_own(name, pictures):
    model, processor = seeing.made(name, families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, name, None, processor)
    assert (backbone.way.pictures, backbone.way.sees) == EXPECTED[name], backbone.way
    assert seeing.compared(backbone, pictures) == ""


@pytest.mark.parametrize("way", ["rows", "model"])
def test_the_slower_ways_are_right_as_well(way, pictures, monkeypatch):
    monkeypatch.setattr(measure_seeing, "_known", {})
    monkeypatch.setattr(measure_seeing, "_ladder", lambda *_: ((way, "back"),))
    model, processor = seeing.made("qwen3_vl", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    assert backbone.way.pictures == way, backbone.way
    assert seeing.compared(backbone, pictures) == ""


def test_what_stands_behind_a_picture_looks_across_at_it(pictures):
    """Rows are what the processor of mllama makes of the same text and picture."""
    _, processor = seeing.made("mllama", families.tokenizer())
    for picture in map(read_picture, pictures[:2]):
        given = processor.made(images=[[picture]], text=["<|image|>the film was good"], return_tensors="pt")
        block, ids = processor.block_ids(picture.size), given["input_ids"][0].tolist()
        at = ids.index(processor.token_id)
        assert (at, block) == (1, (processor.token_id,))
        ours = vision.row_of(block, processor.inputs(picture), ids[:at], ids[at + 1 :])
        assert ours.keys() == given.keys()
        assert all(torch.equal(ours[key], given[key]) for key in given)
        looks = given["cross_attention_mask"].any(-1).any(-1)[0]
        assert looks.tolist() == [False] + [True] * (len(ids) - 1)


TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ':' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return seeing.save_seeing(tmp_path_factory.mktemp("seeing") / "tiny-smolvlm", "smolvlm", TEMPLATE)


@pytest.fixture(scope="module")
def backbone(folder):
    return Backbone.from_pretrained(str(folder), device="cpu")


def test_what_is_loaded_is_what_is_described(folder, backbone, pictures):
    info = describe(str(folder), "float32", "cpu")
    assert backbone.reads_pictures
    assert info.reads_pictures
    assert (info.backbone_id, info.d, info.positions) == (backbone.weights_id, backbone.d, backbone.positions)
    config = AdapterConfig(m=M, r=R, s=S)
    rows = [encode(tokens, TEXTS[:3], WORDS, None, config, pictures) for tokens in (info.tokens, backbone.tokens)]
    assert rows[0] == rows[1]
    assert [len(row.seen.vectors) for row in rows[0]] == [5, 5, 5]


def test_texts_alone_are_right_as_well(backbone):
    assert families.compared(backbone) == ""


def test_what_prepares_pictures_is_part_of_the_id(folder, backbone, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert files.weights_id(other) == backbone.weights_id
    place = other / "preprocessor_config.json"
    place.write_text(place.read_text().replace('"do_rescale": true', '"do_rescale": false'))
    assert files.weights_id(other) != backbone.weights_id
    for name in ("preprocessor_config.json", "processor_config.json"):
        (other / name).unlink()
    blind = describe(str(other), "float32", "cpu")
    assert not blind.reads_pictures
    assert blind.backbone_id in backbone.legacy_ids()


# Of https://huggingface.co/HuggingFaceTB/SmolVLM-256M-Instruct: another head before a picture than before words.
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@pytest.mark.parametrize("template", [TEMPLATE, SMOLVLM])
def test_the_block_stands_in_the_users_message(folder, backbone, pictures, template):
    words = AutoTokenizer.from_pretrained(folder)
    words.chat_template = template
    made = Processor.load(folder, words).made
    made.chat_template = template
    tokens = CausalTokens(words, "mine", backbone.tokens.vocab, [0], [1])
    tokens.eyes = lambda: Processor(made, backbone.config.to_dict())
    config = AdapterConfig(m=M, r=R, s=64)
    (row,) = encode(tokens, ["the film was good"], WORDS, None, config, pictures[:1], chat=True)
    content = [{"type": "image"}, {"type": "text", "text": "the film was good"}]
    told = words.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    given = made(images=[[read_picture(pictures[0])]], text=[told], add_special_tokens=False)
    assert list(row.source) == given["input_ids"][0]
    beside = encode(tokens, ["bad", "the film was good"], WORDS, None, config, [None, pictures[0]], chat=True)
    assert beside[1] == row, "whatever stands beside it"
    assert not beside[0].seen
    (plain,) = encode(tokens, ["the film was good"], WORDS, None, config, pictures[:1])
    given = made(images=[[read_picture(pictures[0])]], text=["<image>the film was good"], add_special_tokens=False)
    assert list(plain.source) == given["input_ids"][0]


def test_a_picture_is_looked_at_once(backbone, pictures, monkeypatch):
    found = backbone.see(pictures)
    monkeypatch.setattr(backbone.vision, "look", lambda _: pytest.fail("looked at again"))
    assert all(torch.equal(a, b) for a, b in zip(found, backbone.see(pictures), strict=True))


def test_a_wrong_way_is_found_out(monkeypatch):
    """Turns that are off by one, and a picture whose vectors see too little."""
    monkeypatch.setattr(measure_seeing, "_known", {})
    monkeypatch.setattr(vision.Scene, "turned", lambda self, positions: None)
    model, processor = seeing.made("qwen2_5_vl", families.tokenizer())
    assert Backbone.of(model, None, None, None, processor).way.pictures == "model"
    monkeypatch.setattr(vision.Scene, "both", lambda self: None)
    model, processor = seeing.made("gemma3", families.tokenizer())
    assert Backbone.of(model, None, None, None, processor).way.pictures == "model"


def blind_or(way, monkeypatch, **changed):
    """What is found of a llava part of which is other than it should be."""
    monkeypatch.setattr(measure_seeing, "_known", {})
    for place, made in changed.items():
        kind, name = {"tower": (t.LlavaModel, "get_image_features"), "look": (vision.Vision, "look")}[place]
        monkeypatch.setattr(kind, name, made(getattr(kind, name)))
    model, processor = seeing.made("llava", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    return backbone.way.pictures == way, backbone.way


def test_what_is_made_once_hides_nothing(monkeypatch):
    """Vectors in another order; a tower, and a processor, that give others each time."""

    def turned(own):
        return lambda self, picture: replace(look := own(self, picture), vectors=look.vectors.roll(1, 0))

    def noisy(own):
        def made(self, *given, **named):
            found = own(self, *given, **named)
            found.pooler_output = [one + torch.randn_like(one) for one in found.pooler_output]
            return found

        return made

    with monkeypatch.context() as patch:
        assert blind_or("model", patch, look=turned)[0]
    with monkeypatch.context() as patch:
        assert blind_or("none", patch, tower=noisy)[0]
    inputs = Processor.inputs

    def uneven(self, picture):
        return {key: value + torch.rand(1) for key, value in inputs(self, picture).items()}

    with monkeypatch.context() as patch:
        patch.setattr(Processor, "inputs", uneven)
        found, way = blind_or("none", patch)
        assert found
        assert "makes other pixels of a picture each time" in way.blind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_self_test_prepares_pictures_and_runs_the_tower_few_times(monkeypatch, dtype):
    """These two cost most. Pixels: of two pictures, of one again, of their sizes. Tower: of sibling and model."""
    asked = {"pixels": 0, "tower": 0}

    def counted(kind, name, what):
        own = getattr(kind, name)

        def made(*given, **named):
            asked[what] += 1
            return own(*given, **named)

        monkeypatch.setattr(kind, name, made)

    model, processor = seeing.made("llava", families.tokenizer())
    counted(Processor, "_run", "pixels")
    counted(t.CLIPVisionModel, "forward", "tower")
    monkeypatch.setattr(measure_seeing, "_known", {})
    assert Backbone.of(model.to(dtype), processor.made.tokenizer, "mine", None, processor).way.pictures == "packed"
    assert asked == {"pixels": 3 + 2, "tower": (1 + 1 + 2) + (2 + 2)}


def test_a_picture_that_the_processor_does_not_take_ends_in_one_line(tmp_path, monkeypatch):
    model, processor = seeing.made("qwen2_5_vl", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    monkeypatch.setattr(picture_reader, "MOST_SIDES", 1000)
    (thin,) = seeing.pictures_in(tmp_path, [(1000, 3)])
    for ask in (lambda: backbone.tokens.picture_block(thin), lambda: backbone.see([thin])):
        with pytest.raises(
            InputError, match=r"^.*0\.png: the backbone's processor does not take this picture .* Remedy"
        ):
            ask()


def test_a_processor_that_cannot_be_run_ends_in_one_line(pictures, monkeypatch):
    model, processor = seeing.made("llava", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    monkeypatch.setattr(processor, "block_ids", lambda size: None + 1)
    with pytest.raises(InputError, match=r"processor cannot be run \(TypeError.* Remedy: adapter\.pictures"):
        backbone.tokens.picture_block(pictures[0])


def test_the_place_of_an_adapters_own_pictures_hangs_on_no_processor(monkeypatch):
    model, processor = seeing.made("llava", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    monkeypatch.setattr(type(backbone), "_eyes", lambda self: pytest.fail("asked"))
    assert backbone.tokens.picture_place([5, 6]) == 0


def test_a_pictures_bits_hang_on_no_other(backbone, pictures):
    together = backbone.see(pictures)
    for picture, found in zip(pictures, together, strict=True):
        backbone._kept = Kept(1 << 20)
        assert torch.equal(backbone.see([picture])[0], found)
        assert found.untyped_storage().nbytes() == found.nbytes


def test_a_prefix_has_no_end_in_ids_alone():
    model, processor = seeing.made("paligemma", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    with pytest.raises(InputError, match=r"reads a text both ways up to its answer.* Remedy: score, or generate"):
        backbone(seeing.adapter_of(backbone, 0), torch.tensor([[5, 6, 7]]))


def test_baselines_train_what_reads_text():
    model, _ = seeing.made("smolvlm", families.tokenizer())
    own = set(map(id, trained(model)))
    names = {name for name, one in model.named_parameters() if id(one) in own}
    assert names == {name for name, _ in model.named_parameters() if "text_model" in name or "lm_head" in name}
    inside = set(map(id, model.get_decoder().modules()))
    assert {id(layer) for layer in lora.layers(model)} <= inside
    wrapped = lora.attach(model, 2, 0)
    assert all("text_model" in name for name, one in model.named_parameters() if one.requires_grad)
    lora.detach(wrapped)


def test_one_that_cannot_be_followed_reads_texts_alone(pictures, monkeypatch):
    monkeypatch.setattr(measure_seeing, "_known", {})
    monkeypatch.setattr(measure_seeing, "_ladder", lambda *_: ())
    model, processor = seeing.made("llava", families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, "mine", None, processor)
    assert not backbone.reads_pictures
    assert backbone.way.fast
    for ask in (lambda: backbone.see(pictures), lambda: backbone.tokens.picture_block(pictures[0])):
        with pytest.raises(InputError, match=r"^backbone mine: it reads no pictures: it gives other numbers.* Remedy"):
            ask()
