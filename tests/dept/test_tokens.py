"""Texts and answers as tokens, whatever a tokenizer puts around them; cases 01, 07 and 17 and their kind."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dept.adapters.adapter import CONTINUES
from dept.adapters.initialise import from_shots, from_text
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import encode, encode_answers, encode_open
from dept.config import AdapterConfig
from dept.engine.evaluate import Request, reading_of, score
from dept.engine.generate import Prompted, generate, generate_ids
from infra.errors import InputError
from tests.tiny import WORDS, save_backbone

CONFIG = AdapterConfig(m=3, r=2, s=24)
TEXTS = ["a film was good", "bad plot and awful acting"]
PAIR = ("negative", "positive")


@pytest.fixture
def made(tmp_path):
    """A tiny backbone whose tokenizer and model a test may change before it is loaded."""

    def make(family="llama", change=None, wrap=None, raw=None):
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

        folder = save_backbone(tmp_path / f"tiny-{len(list(tmp_path.iterdir()))}", family)
        auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
        model = auto.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if raw is not None:
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>")
        if wrap is not None:
            special = [("</s>", tokenizer.convert_tokens_to_ids("</s>"))]
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single=wrap, special_tokens=special
            )
        if change is not None:
            tokenizer = change(model, tokenizer) or tokenizer
        shutil.rmtree(folder)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def load(folder):
    return Backbone.from_pretrained(str(folder), device="cpu")


def scores(backbone, texts=TEXTS, words=PAIR):
    adapter = from_text(backbone, CONFIG, "good or bad?", 0)
    return torch.tensor(score(backbone, [adapter], [Request(text, words, 0) for text in texts]))


@pytest.mark.parametrize("wrap", ["$A </s>", "$A </s> </s>"])
def test_a_text_to_be_continued_never_ends_with_its_end(made, wrap):
    """Scores, prompts, free answers and generation are those of a tokenizer that appends nothing."""
    plain, appends = load(made()), load(made(wrap=wrap))
    assert appends.tokenizer("x")["input_ids"][-1] == appends.end_id  # transformers itself does append it
    assert appends.encode_texts(TEXTS) == plain.encode_texts(TEXTS)
    torch.testing.assert_close(scores(appends), scores(plain))
    for found in (appends.tokens.encode_words(("good", "good film")), appends.tokens.encode_words(PAIR)):
        assert found in (plain.tokens.encode_words(("good", "good film")), plain.tokens.encode_words(PAIR))
    assert appends.tokens.encode_answers(["good film"]) == plain.tokens.encode_answers(["good film"])
    shots = [("a film was good", "positive"), ("bad plot", "negative")]
    ours, theirs = (from_shots(b, CONFIG, shots).prompt for b in (appends, plain))
    assert torch.equal(ours, theirs)
    adapter = from_text(plain, CONFIG, "good or bad?", 0)
    asked = [Prompted(text, 0) for text in TEXTS]
    assert generate(appends, [adapter], asked, 4) == generate(plain, [adapter], asked, 4)


def test_what_begins_a_text_stands_at_its_beginning_alone(made):
    """BOS before the first shot, before no later one, and not before the text that the shots lead to."""
    backbone = load(made(wrap="</s> $A"))
    begin = backbone.tokens.begin
    assert begin == [1]
    plain = load(made())
    assert backbone.encode_texts(TEXTS) == [[1, *ids] for ids in plain.encode_texts(TEXTS)]
    assert backbone.tokens.encode_words(PAIR) == plain.tokens.encode_words(PAIR)
    assert backbone.tokens.encode_answers(["bad"]) == plain.tokens.encode_answers(["bad"])
    shots = from_shots(backbone, CONFIG, [("a film", "good"), ("a plot", "bad")])
    rows = backbone.embed(torch.tensor(begin)).data
    assert torch.equal(shots.prompt.data[:1], rows)
    assert not any(torch.equal(row, rows[0]) for row in shots.prompt.data[1:])
    assert shots.metadata[CONTINUES] is True
    (row,) = encode(backbone.tokens, TEXTS[:1], PAIR, None, shots.config, **reading_of(shots))
    assert list(row.source) == plain.encode_texts(TEXTS[:1])[0]
    long = encode(backbone.tokens, ["good " * 60], PAIR, None, CONFIG)[0]
    assert long.cut
    assert long.source[0] == 1  # what begins a text stays when its beginning is cut


@pytest.mark.parametrize("case", ["added and not resized", "minus one"])
def test_any_padding_will_do(made, case):
    """Case 07: padding is masked, so an id outside the embeddings must not be looked up."""

    def change(model, tokenizer):
        if case == "added and not resized":
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
            assert tokenizer.pad_token_id >= model.config.vocab_size
        else:
            tokenizer.pad_token = None
            model.config.pad_token_id = -1
            model.generation_config.pad_token_id = None

    texts = [*TEXTS, "the " * 15]
    torch.testing.assert_close(scores(load(made(change=change)), texts), scores(load(made()), texts))


def test_a_token_outside_the_embeddings_is_named(made):
    folder = made(change=lambda _, tokenizer: tokenizer.add_tokens(["<user>"]) and None)
    backbone = load(folder)
    assert torch.isfinite(scores(backbone)).all()  # nothing is wrong as long as no text holds it
    with pytest.raises(InputError, match=r"token '<user>' has id \d+, but the model knows \d+ tokens. Remedy"):
        scores(backbone, ["<user> was good"])
    with pytest.raises(InputError, match="'<user>'"):
        backbone.tokens.encode_answers(["<user>"])


def test_a_tokenizer_whose_every_text_is_outside_is_refused_when_loaded(made):
    def change(_, tokenizer):
        tokenizer.add_special_tokens({"bos_token": "[NEW]"})
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[NEW] $A", special_tokens=[("[NEW]", tokenizer.convert_tokens_to_ids("[NEW]"))]
        )

    with pytest.raises(InputError, match=r"'\[NEW\]' has id"):
        load(made(change=change))


@pytest.mark.parametrize("where", ["config", "list", "generation"])
def test_the_end_is_found_where_it_is_named(made, where):
    """Case 17: a tokenizer without one; the configuration has it, as a number or a list of numbers."""

    def change(model, tokenizer):
        tokenizer.eos_token = None
        model.config.eos_token_id = {"config": 1, "list": [7, 1], "generation": None}[where]
        model.generation_config.eos_token_id = [7, 1] if where == "generation" else None
        return tokenizer

    backbone = load(made(change=change))
    ends = (1,) if where == "config" else (7, 1)
    assert (backbone.end_id, backbone.tokens.end_ids) == (ends[0], ends)
    assert torch.isfinite(scores(backbone, TEXTS, ("good", "good film"))).all()
    assert all(ids[-1] == ends[0] for ids in backbone.tokens.encode_words(("good", "good film")))


def test_generation_stops_at_each_of_several_ends(tiny_llama):
    adapter = from_text(tiny_llama, CONFIG, "good or bad?", 0)
    tensors = Tensors.of([adapter], tiny_llama.device)
    items = [(0, row) for row in encode_open(tiny_llama.tokens, TEXTS, CONFIG, 6)]
    plain = generate_ids(tiny_llama, tensors, items, 6)
    tiny_llama.tokens.end_ids = (1, plain[0][2])
    stopped = generate_ids(tiny_llama, tensors, items, 6)
    assert stopped[0] == plain[0][: plain[0].index(plain[0][2])]
    assert all(len(ids) <= 6 and not set(ids) & {1, plain[0][2]} for ids in stopped)


def test_no_end_at_all_says_what_to_do(made):
    def change(model, tokenizer):
        tokenizer.eos_token = model.config.eos_token_id = model.generation_config.eos_token_id = None

    backbone = load(made(change=change))
    assert torch.isfinite(scores(backbone)).all()
    with pytest.raises(InputError, match=r"no end-of-sequence token.*Remedy"):
        scores(backbone, TEXTS, ("good", "good film"))


def wordpiece():
    raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"])
    raw.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return raw


def sentencepiece():
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    raw.train_from_iterator([" ".join(WORDS), *(f"{w}: {w}" for w in WORDS)] * 3, trainer)
    return raw


@pytest.mark.parametrize("kind", [None, wordpiece, sentencepiece], ids=["bpe", "wordpiece", "sentencepiece"])
def test_answers_follow_a_text_as_they_would_be_written(made, kind):
    """Text and answer, tokenised apart, are the tokens of both written as one, with a blank or a line break between."""
    backbone = load(made(raw=kind() if kind else None))
    plain = lambda text: backbone.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    for text, blank in (("the film: good plot :", " "), ("the film: good plot : ", ""), ("good plot :\n", "")):
        for answer in ("positive", "very good"):
            whole = plain(f"{text}{blank}{answer}")
            (row,) = encode(backbone.tokens, [text], (answer, "sad"), [0], CONFIG)
            assert [*row.source, *row.candidates[0]] == whole
            (free,) = encode_answers(backbone.tokens, [text], [answer], CONFIG, 14)
            assert [*free.source, *free.candidates[0]] == [*whole, backbone.end_id]


def test_the_side_that_is_cut_is_a_choice(tiny):
    words = " ".join(WORDS[:20])
    ids = tiny.encode_texts([words])[0]
    longest = max(map(len, tiny.tokens.encode_words(PAIR)))
    room = tiny.tokens.room(12, longest)
    config = AdapterConfig(m=2, r=2, s=12)
    for cut in ("start", "end", None):
        (row,) = encode(tiny.tokens, [words], PAIR, None, config, cut=cut)
        assert row.cut
        assert len(row.source) == room
        if (cut or tiny.tokens.cut) == "start":
            assert list(row.source) == ids[-room:]
        else:
            assert list(row.source[:5]) == ids[:5]
            assert (row.source[-1] == ids[-1]) == (tiny.family == "seq2seq")  # its end token stays
    (short,) = encode(tiny.tokens, [words], PAIR, None, config, max_length=5)
    assert (len(short.source), short.cut) == (5, True)
    (whole,) = encode(tiny.tokens, [words], PAIR, None, AdapterConfig(m=2, r=2, s=200), max_length=500)
    assert (list(whole.source), whole.cut) == (ids, False)
    (open_row,) = encode_open(tiny.tokens, [words], config, 4, cut="end")
    assert list(open_row.source[:4]) == ids[:4]
    assert len(open_row.source) == tiny.tokens.room(12, 4)


def test_a_text_without_a_token_is_refused(tiny_llama):
    with pytest.raises(InputError, match="text 2 of 2 holds no token: ''"):
        encode(tiny_llama.tokens, ["good", "  "], PAIR, None, CONFIG)


@pytest.mark.parametrize(("wrap", "begin", "end"), [("</s> $A </s>", [1], [1]), ("$A </s> <pad>", [], [1, 0])])
def test_what_stands_around_a_text_that_is_cut_stays(made, wrap, begin, end):
    """As bart's <s> and </s>, and mbart's </s> and language."""

    def change(model, tokenizer):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=wrap, special_tokens=[("</s>", 1), ("<pad>", 0)]
        )

    tokens = load(made("t5", change)).tokens
    (ids,) = tokens.encode_texts([" ".join(WORDS[:20])])
    inner = ids[len(begin) : len(ids) - len(end)]
    room = 9 - len(begin) - len(end)
    assert tokens.shorten(ids, 9, "end") == [*begin, *inner[:room], *end]
    assert tokens.shorten(ids, 9, "start") == [*begin, *inner[-room:], *end]
    assert tokens.shorten(ids, 2, "end")[-1] == ids[-1]
