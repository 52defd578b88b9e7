"""Models that read pictures themselves: numbers are those of their own pass over token ids and pixels."""

import shutil

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.backbones import files, measure_seeing, vision
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.backbones.vision import embedding, row_of, text_alone
from dept.batches.tokenise import encode, encode_open
from dept.config import AdapterConfig
from dept.engine.evaluate import score_rows
from dept.engine.generate import generate_ids
from dept.engine.gradients import accumulate
from infra.errors import InputError
from tasks.picture_reader import read_picture
from tasks.pictures import picture_at
from tests import families, seeing

EXPECTED = {
    "llava": ("packed", "back"),
    "smolvlm": ("packed", "back"),
    "paligemma": ("rows", "prefix"),
    "gemma3": ("packed", "block"),
    "qwen2_5_vl": ("packed", "back"),
    "qwen3_vl": ("model", "back"),
}
TEXTS = ("the film was good and slow", "bad acting", "it is not happy food", "great plot")
WORDS = ("good", "very good", "bad plot")
M, S, R = 3, 24, 2


@pytest.fixture
def pictures(tmp_path):
    sizes = ((40, 30), (30, 40), (40, 30))
    return [picture_at(noise(tmp_path / f"{i}.png", size, i)) for i, size in enumerate(sizes)]


def noise(path, size, seed):
    from PIL import Image

    draw = torch.Generator().manual_seed(seed)
    pixels = (torch.rand(size[1], size[0], 3, generator=draw) * 255).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(path)
    return path


def adapter_of(backbone, seed):
    draw = torch.Generator().manual_seed(seed)
    size = 0.5 * float(backbone.model.get_input_embeddings().weight.std())
    shapes = (M, backbone.d), (S, R), (R, backbone.d)
    return Adapter(*(torch.randn(*shape, generator=draw) * size**0.5 for shape in shapes), alpha=1.0)


def own_logits(backbone, adapter, row, answer):
    """The model's own logits [n, vocab] of one text with its picture and answer, behind the prompt."""
    processor, at, size = backbone.vision.processor, *((row.seen.at, row.seen.size) if row.seen else (0, 0))
    given = processor.inputs([read_picture(row.seen.picture)]) if row.seen else None
    if given is None:
        given = text_alone(processor.inputs([read_picture_of_any()])) if backbone.way.sees == "prefix" else {}
    before, block, behind = row.source[:at], row.source[at : at + size], row.source[at + size :]
    call = row_of(block, given, [5] * M + list(before), [*behind, *answer], len(answer))
    table = backbone.model.get_input_embeddings()
    text = torch.tensor([*before, *behind, *answer])
    shifted = table(text) + (adapter.scale * adapter.a @ adapter.b)[: len(text)]
    vectors = torch.cat([adapter.prompt, shifted[:at], adapter.prompt.new_zeros(size, backbone.d), shifted[at:]])
    kept = torch.zeros(1, len(vectors), dtype=torch.bool)
    kept[:, M + at : M + at + size] = True
    with embedding(backbone.model, vectors[None], kept):
        return backbone.model(**call, use_cache=False).logits[0, M:]


def read_picture_of_any():
    from PIL import Image

    return Image.new("RGB", (40, 30))


def own_score(backbone, adapter, row, answer):
    logits = own_logits(backbone, adapter, row, answer)[len(row.source) - 1 :][: len(answer)].log_softmax(-1)
    return logits[torch.arange(len(answer)), torch.tensor(answer)].sum()


@pytest.mark.parametrize("name", EXPECTED)
def test_scores_gradients_and_new_tokens_are_the_models_own(name, pictures):
    model, processor = seeing.made(name, families.tokenizer())
    backbone = Backbone.of(model, processor.made.tokenizer, name, None, processor)
    assert (backbone.way.pictures, backbone.way.sees) == EXPECTED[name], backbone.way
    adapters = [adapter_of(backbone, seed) for seed in (0, 1)]
    rows = encode(backbone.tokens, TEXTS, WORDS, [0, 1, 2, 0], adapters[0].config, [*pictures, None])
    assert all(row.seen.size > 3 for row in rows[:3])
    items = [(which, row) for row in rows for which in (0, 1)]
    tensors = Tensors.of(adapters, backbone.device)
    with torch.no_grad():
        wanted = torch.tensor(
            [[own_score(backbone, adapters[w], row, ids) for ids in row.candidates] for w, row in items]
        )
    found = torch.tensor(score_rows(backbone, tensors, items))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)

    names = ("prompt", "a", "b")
    for part in names:
        setattr(tensors, part, getattr(tensors, part).detach().requires_grad_())
    gold = [(which, row.only_gold()) for which, row in items]
    accumulate(backbone, tensors, gold, [1.0] * len(gold), 400)
    parts = [getattr(adapters[0], part) for part in names]
    total = -sum(own_score(backbone, adapters[0], row, row.candidates[0]) for which, row in gold if which == 0)
    for part, theirs in zip(names, torch.autograd.grad(total, parts), strict=True):
        ours = getattr(tensors, part).grad[0]
        assert float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.abs().max().clamp(min=1e-3)), part

    opened = encode_open(backbone.tokens, TEXTS, adapters[1].config, 3, [*pictures, None])
    with torch.no_grad():
        plain = Tensors.of(adapters, backbone.device)
        written = generate_ids(backbone, plain, [(1, row) for row in opened], 3)
        for row, ids in zip(opened, written, strict=True):
            theirs = []
            while len(theirs) < 3:
                token = int(own_logits(backbone, adapters[1], row, theirs)[-1].argmax())
                if token in backbone.tokens.end_ids:
                    break
                theirs.append(token)
            assert ids == theirs


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


def test_the_block_stands_in_the_users_message(folder, backbone, pictures):
    processor = backbone.vision.processor.made
    config = AdapterConfig(m=M, r=R, s=64)
    (row,) = encode(backbone.tokens, ["the film was good"], WORDS, None, config, pictures[:1], chat=True)
    content = [{"type": "image"}, {"type": "text", "text": "the film was good"}]
    turns = [{"role": "user", "content": content}]
    told = processor.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    given = processor(images=[[read_picture(pictures[0])]], text=[told], add_special_tokens=False)
    assert list(row.source) == given["input_ids"][0]


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
