"""Encoders: words at masks and heads are those of transformers' own forward pass over [P; E + scale * A @ B]."""

import json
import shutil

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.head import Head
from dept.adapters.initialise import from_text
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.backbones.sizes import room_of
from dept.backbones.ways import Way
from dept.batches.tokenise import encode, encode_answers, encode_open
from dept.config import AdapterConfig, TrainConfig
from dept.engine.evaluate import Request, score
from dept.engine.features import features
from dept.engine.generate import Prompted, generate
from dept.engine.gradients import accumulate
from dept.engine.train import Trial, train
from dept.readout import Readout
from infra.errors import InputError
from tests import families
from tests.encoders import OPTIONS, save_encoder

CONFIG = AdapterConfig(m=4, r=2, s=32, alpha=1.0)
WORDS = ("bad", "very good", "awful")
TEXTS = ["the film was good and the plot was great Sentiment:", "bad Sentiment:", "slow food , not a price Sentiment:"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    found = {family: save_encoder(root / family, family) for family in OPTIONS}
    return found | {"bare": save_encoder(root / "bare", "bert", words=False)}


@pytest.fixture(params=OPTIONS)
def encoder(request, folders):
    return load(folders[request.param])


def load(folder):
    return Backbone.from_pretrained(str(folder), device="cpu", dtype="float32")


def adapter_of(backbone, seed=0, m=4, labels=0, width=0):
    draw = torch.Generator().manual_seed(seed)
    size = float(backbone.model.get_input_embeddings().weight.std()) ** 0.5
    shapes = (m, backbone.d), (CONFIG.s, 2), (2, backbone.d)
    parts = [torch.randn(*shape, generator=draw) * size for shape in shapes]
    head, layers = None, ()
    if labels:
        layers, many = (0.5, 1.0), 2 * width
        weight = torch.randn(labels, many, generator=draw)
        head = Head(weight, torch.zeros(labels), torch.zeros(many), torch.ones(many))
    return Adapter(*parts, alpha=1.0, head=head, layers=layers)


def own(backbone, adapter, ids, **more):
    """transformers' own pass over one text."""
    shift = adapter.scale * (adapter.a @ adapter.b)[: len(ids)]
    table = backbone.model.get_input_embeddings().weight
    whole = torch.cat([adapter.prompt, table[torch.tensor(ids)] + shift])[None]
    return backbone.model(inputs_embeds=whole, **more)


def truth(backbone, adapter, text):
    """Log-probability of each word: the sum over its tokens, each at its mask."""
    words = [backbone.tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    many = max(map(len, words))
    ids = backbone.tokenizer(text + " [MASK]" * many)["input_ids"]
    assert ids[-1 - many : -1] == [4] * many
    logs = own(backbone, adapter, ids).logits[0, len(adapter.prompt) + len(ids) - 1 - many :].log_softmax(-1)
    return torch.stack([sum(logs[i, token] for i, token in enumerate(word)) for word in words])


def test_words_are_those_of_the_models_own_pass(encoder):
    """Two adapters, texts of several lengths, in one batch."""
    assert encoder.way.told == "fast"
    adapters = [adapter_of(encoder), adapter_of(encoder, 1)]
    asked = [(text, which) for text in TEXTS for which in (0, 1)]
    found = score(encoder, adapters, [Request(text, WORDS, which) for text, which in asked])
    for ours, (text, which) in zip(found, asked, strict=True):
        theirs = truth(encoder, adapters[which], text).detach()
        torch.testing.assert_close(torch.tensor(ours), theirs, atol=1e-4, rtol=0)


def test_gradients_are_those_of_the_models_own_pass(encoder):
    adapter = adapter_of(encoder)
    rows = [row.only_gold() for row in encode(encoder.tokens, TEXTS, WORDS, [0, 1, 2], CONFIG)]
    tensors = Tensors.of([adapter], encoder.device)
    names = ("prompt", "a", "b")
    for name in names:
        setattr(tensors, name, getattr(tensors, name).detach().requires_grad_())
    accumulate(encoder, tensors, [(0, row) for row in rows], [1.0] * 3, 40)
    parts = [getattr(adapter, name) for name in names]
    wanted = -sum(truth(encoder, adapter, text)[gold] for gold, text in enumerate(TEXTS))
    for name, theirs in zip(names, torch.autograd.grad(wanted, parts), strict=True):
        ours = getattr(tensors, name).grad[0]
        torch.testing.assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)


def test_states_are_those_of_the_models_own_pass(encoder):
    """Pooled over the text, masks within it; of the bare backbone over the text alone."""
    adapter = adapter_of(encoder)
    rows = encode(encoder.tokens, TEXTS, WORDS, None, CONFIG)
    tensors = Tensors.of([adapter], encoder.device)
    found = features(encoder, [(0, row) for row in rows], (0.5, 1.0), tensors)
    bare = features(encoder, [(0, row) for row in rows], (1.0,))
    for row, ours, alone, text in zip(rows, found, bare, TEXTS, strict=True):
        states = own(encoder, adapter, list(row.source), output_hidden_states=True).hidden_states
        half = states[round(0.5 * (len(states) - 1))]
        theirs = torch.cat([half[0, 4:].mean(0), states[-1][0, 4:].mean(0)])
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=0)
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
        theirs = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
        torch.testing.assert_close(alone, theirs.detach(), atol=1e-4, rtol=0)


def test_the_public_forward_pass(encoder):
    adapter = adapter_of(encoder)
    ids = torch.tensor([[0, 0, 2, 9, 4, 3], [2, 9, 10, 11, 4, 3]])
    labels = torch.full_like(ids, -100)
    labels[:, 4] = 12
    out = encoder(adapter, ids, (ids != 0).long(), labels)
    logs = []
    for logits, row, real in zip(out.logits, ids, (4, 6), strict=True):
        theirs = own(encoder, adapter, row[-real:].tolist()).logits[0, 4:]
        torch.testing.assert_close(logits[-real:], theirs, atol=1e-4, rtol=0)
        logs.append(theirs[-2].log_softmax(-1)[12])
    torch.testing.assert_close(out.loss, -sum(logs) / 2, atol=1e-4, rtol=0)
    few = encoder(adapter, ids, (ids != 0).long(), labels, all_positions=False)
    torch.testing.assert_close(few.logits, out.logits[:, 4], atol=1e-4, rtol=0)


def test_a_stack_trains_as_each_alone(folders):
    backbone = load(folders["bert"])
    rows = encode(backbone.tokens, TEXTS, WORDS, [0, 1, 2], CONFIG)
    trials = [
        Trial(f"{i}", from_text(backbone, CONFIG, "good or bad", i), TrainConfig(steps=4, lr_prompt=rate), rows, rows)
        for i, rate in enumerate((1e-1, 1e-2))
    ]
    together = train(trials, backbone)
    for trial in trials:
        alone = train([trial], backbone)[trial.key].adapter
        torch.testing.assert_close(together[trial.key].adapter.prompt, alone.prompt, atol=1e-5, rtol=0)
        assert (alone.prompt - trial.start.prompt).abs().max() > 1e-3


def test_an_encoder_without_words_is_read_by_heads(folders):
    backbone = load(folders["bare"])
    assert not describe(str(folders["bare"]), device="cpu").tells_words
    adapter = adapter_of(backbone, labels=3, width=backbone.d)
    adapter.readout = Readout(1.0)
    found = score(backbone, [adapter], [Request(text, WORDS, 0) for text in TEXTS])
    shape = adapter.config.model_copy(update={"answers": "head"})
    for text, ours, row in zip(TEXTS, found, encode(backbone.tokens, TEXTS, WORDS, None, shape), strict=True):
        assert list(row.source) == backbone.tokenizer(text)["input_ids"]  # no masks
        states = own(backbone, adapter, list(row.source), output_hidden_states=True).hidden_states
        read = torch.cat([states[1][0, 4:].mean(0), states[2][0, 4:].mean(0)])
        theirs = (adapter.head.weight @ read).log_softmax(0).detach()
        torch.testing.assert_close(torch.tensor(ours), theirs, atol=1e-4, rtol=0)
    trial = Trial("x", adapter, TrainConfig(steps=3), *[encode(backbone.tokens, TEXTS, WORDS, [0, 1, 2], shape)] * 2)
    assert train([trial], backbone)["x"].state.failure is None


def test_what_cannot_be_trained_is_refused_in_one_line(folders):
    backbone = load(folders["bert"])
    shape = AdapterConfig(m=3, r=2, s=16, answers="head")
    rows = encode(backbone.tokens, ["good film"], ("negative", "positive"), [1], shape)
    with pytest.raises(InputError, match=r"trial x: its rows have no masks, as for a head.* no head\. Remedy: rows"):
        train([Trial("x", from_text(backbone, shape, "is it good", 0), TrainConfig(steps=1), rows, rows)], backbone)
    wide = Adapter(torch.zeros(3, 24), torch.zeros(16, 2), torch.zeros(2, 24))
    with pytest.raises(InputError, match=r"adapter of width 24 does not fit backbone bert of width \d+\. Remedy"):
        train([Trial("x", wide, TrainConfig(steps=1), rows, rows)], backbone)


def test_words_of_an_encoder_without_words_are_refused(folders):
    backbone = load(folders["bare"])
    told = r"bare has no masked-LM head, so it tells no words\. Remedy: answers: head"
    with pytest.raises(InputError, match=told):
        score(backbone, [adapter_of(backbone)], [Request("good", ("bad", "good"), 0)])
    with pytest.raises(InputError, match=told):
        backbone(adapter_of(backbone), torch.tensor([[2, 9, 3]]))


def test_an_encoder_writes_nothing(folders):
    for tokens in (load(folders["bert"]).tokens, describe(str(folders["bert"]), device="cpu").tokens):
        for ask in (encode_open, lambda *args: encode_answers(*args[:2], ["b"], *args[2:])):
            with pytest.raises(InputError, match=r"bert is an encoder, which writes no answers\. Remedy: a causal"):
                ask(tokens, ["a"], CONFIG, 4)
    backbone = load(folders["bert"])
    with pytest.raises(InputError, match="writes no answers"):
        generate(backbone, [adapter_of(backbone)], [Prompted("good", 0)])


def test_where_masks_stand(folders):
    """Behind the text, before [SEP]; a text that is cut loses its beginning behind [CLS]; none begins another."""
    for tokens in (load(folders["bert"]).tokens, describe(str(folders["bert"]), device="cpu").tokens):
        assert tokens.family == "encoder"
        good, very, film = (tokens.encode_texts([word])[0][1] for word in ("good", "very", "film"))
        short = AdapterConfig(m=2, r=2, s=7)
        (row,) = encode(tokens, ["film film film film good:"], ("bad", "very good"), [1], short)
        assert row.source[0] == 2
        assert row.source[-3:] == (4, 4, 3)
        assert (row.source[1:-4], row.masks, row.cut) == ((film, good), (4, 5), True)
        assert row.candidates[1] == (very, good)
        assert row.length == len(row.source) == 7
        (row,) = encode(tokens, ["film"], ("very", "very good"), [0], short)
        assert row.candidates == ((very, 3), (very, good, 3))
        (row,) = encode(tokens, ["film"], ("bad", "good"), [0], short.model_copy(update={"answers": "head"}))
        assert (row.source, row.masks) == ((2, film, 3), ())


def test_a_template_names_the_masks_place(folders):
    """What stands in a row is no such place, and no cut takes it away."""
    for tokens in (load(folders["bert"]).tokens, describe(str(folders["bert"]), device="cpu").tokens):
        film, it, was, good = (tokens.encode_texts([word])[0][1] for word in ("film", "it", "was", "good"))
        dot, config = tokens.encode_texts(["."])[0][1], AdapterConfig(m=2, r=2, s=9)
        words, template = ("bad", "very good"), "{text} it was [MASK]."
        long = "[MASK] film film film film film it was [MASK]."
        for text, cut, left, was_cut in (
            ("film it was [MASK].", None, (2, film, it, was, 4, 4, dot, 3), False),
            (long, None, (2, film, film, it, was, 4, 4, dot, 3), True),
            (long, "text", (2, 4, film, it, was, 4, 4, dot, 3), True),
            (long, "end", (2, 4, *[film] * 5, 4, 4), True),
        ):
            (row,) = encode(tokens, [text], words, [0], config, template=template, cut=cut)
            if cut == "end":
                assert (row.source[:7], row.source[-1], row.masks) == ((2, 4, *[film] * 4, 4), 3, (6, 7))
                continue
            assert (row.source, row.cut) == (left, was_cut)
            assert [row.source[i] for i in row.masks] == [4, 4]
            assert row.masks[-1] + 2 == len(row.source) - 1
        (row,) = encode(tokens, ["it was [MASK]. film"], words, [0], config, template="it was [MASK]. {text}")
        assert (row.source, row.masks) == ((2, it, was, 4, 4, dot, film, 3), (3, 4))
        head = config.model_copy(update={"answers": "head"})
        (row,) = encode(tokens, ["good it was [MASK]."], words, [0], head, template=template)
        assert (row.source, row.masks) == ((2, good, it, was, dot, 3), ())


def test_what_leaks_from_padding_is_found_out():
    """A token of mobilebert reads its neighbours' embeddings; zeros behind a text would hide it."""
    model = families.model_of("mobilebert:m")
    kind = Backbone.kinds["encoder"]
    agrees = kind.test("mobilebert", None).truth(model, model, True)
    assert [agrees(kind(model, None, None, None, Way(rows))) for rows in ("packed", "equal")] == [False, True]


def test_without_a_mask_heads_alone_tell(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "unmasked")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            body = json.loads((folder / name).read_text())
            body.pop("mask_token", None)
            (folder / name).write_text(json.dumps(body))
    info = describe(str(folder), device="cpu")
    assert (info.fills_in, info.tells_words) == (True, False)
    with pytest.raises(InputError, match=r"has no mask token, so no word can be told\. Remedy: answers: head"):
        encode(info.tokens, ["film"], ("bad", "good"), [0], CONFIG)
    head = CONFIG.model_copy(update={"answers": "head"})
    (row,) = encode(info.tokens, ["film was [MASK]"], ("bad", "good"), [0], head, template="{text} was [MASK]")
    assert not row.masks


def test_kinds_by_configuration(folders):
    from dept.backbones.family import family_of

    assert family_of({"architectures": ["BertForMaskedLM"], "model_type": "bert"}) == "encoder"
    assert family_of({"architectures": ["BertModel"], "model_type": "bert"}) == "encoder"
    assert family_of({"architectures": ["BertModel"], "model_type": "bert", "is_decoder": True}) == "causal"
    assert family_of({"architectures": ["LlamaModel"], "model_type": "llama"}) == "causal"
    assert family_of({"architectures": ["XLMWithLMHeadModel"], "model_type": "xlm"}) == "encoder"
    assert family_of({"architectures": ["XLMWithLMHeadModel"], "model_type": "xlm", "causal": True}) == "causal"
    assert family_of({"model_type": "deberta-v2"}) == "encoder"
    assert family_of({"is_encoder_decoder": True, "architectures": ["BartForMaskedLM"]}) == "seq2seq"
    body = json.loads((folders["bare"] / "config.json").read_text())
    assert body["architectures"] == ["BertModel"]


def test_positions_of_encoders():
    bird = {"model_type": "big_bird", "attention_type": "block_sparse", "max_position_embeddings": 4096}
    assert room_of(bird) == 704  # up to here transformers sees all tokens, of whatever rows came before
    long = {"model_type": "longformer", "pad_token_id": 1, "max_position_embeddings": 4098}
    assert room_of({**long, "attention_window": [512] * 12}) == 4096
    assert room_of({**long, "attention_window": 500}) == 4000
    assert room_of({**long, "attention_window": 8192}) == 4096
    mpnet = {"model_type": "mpnet", "relative_attention_num_buckets": 32, "max_position_embeddings": 514}
    assert room_of(mpnet) == 512
