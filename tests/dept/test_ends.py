"""What begins and ends a text, by tokenizers that add a beginning, an end, both or neither; cases 01 and 17."""

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from dept.adapters.adapter import CONTINUES
from dept.adapters.initialise import from_shots
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import encode, encode_answers, encode_open
from dept.config import AdapterConfig
from tests.tiny import save_backbone

WRAPS = {"neither": "$A", "beginning": "<s> $A", "end": "$A </s>", "both": "<s> $A </s>"}
CONFIG = AdapterConfig(m=3, r=2, s=24)
PAIR = ("negative", "positive")
SHOTS = [("a film was good", "positive"), ("bad plot", "negative"), ("so " * 60, "negative")]
LONG = "good " * 50 + "and awful " * 50


def wrapped(folder, family, wrap):
    save_backbone(folder, family)
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=wrap, special_tokens=special)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Backbone.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module", params=WRAPS)
def causal(request, tmp_path_factory):
    return wrapped(tmp_path_factory.mktemp("ends") / request.param, "llama", WRAPS[request.param]), request.param


@pytest.fixture(scope="module", params=WRAPS)
def both_ways(request, tmp_path_factory):
    return wrapped(tmp_path_factory.mktemp("ends") / request.param, "t5", WRAPS[request.param]), request.param


def test_of_a_text_to_be_continued(causal):
    """Its beginning stays whatever is cut, its end never stands before what is scored or written."""
    backbone, kind = causal
    first, last = (backbone.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>"))
    begins = kind in ("beginning", "both")
    assert (backbone.tokenizer("x")["input_ids"][-1] == last) == (kind in ("end", "both"))  # as transformers has it
    template = "{text}and more"
    for text in ("a film was good", LONG, f"{LONG}and more"):
        for cut in (None, "start", "end", "text"):
            reading = {"cut": cut, "template": template}
            rows = encode(backbone.tokens, [text], PAIR, None, CONFIG, **reading)
            rows += encode_open(backbone.tokens, [text], CONFIG, 6, **reading)
            rows += encode_answers(backbone.tokens, [text], ["good"], CONFIG, 6, **reading)
            for row in rows:
                assert row.cut == (len(text) > 20)
                assert [token for token in row.source if token in (first, last)] == [first] * begins
                assert row.source[0] == first or not begins
                assert all(first not in one and last not in one[:-1] for one in row.candidates)
            assert all(last not in one for one in rows[0].candidates)  # scored words that begin no other


def test_of_solved_examples(causal):
    """One beginning, at the very beginning; no end; and what follows goes on."""
    backbone, kind = causal
    tokens, asked = backbone.tokens, []
    shots = from_shots(backbone, CONFIG, SHOTS)
    special = [tokens.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>")]
    rows = backbone.embed(torch.tensor(special)).data
    for place, vector in enumerate(shots.prompt.data):
        asked += [(place, token) for token, row in zip("be", rows, strict=True) if torch.equal(vector, row)]
    assert asked == ([(0, "b")] if kind in ("beginning", "both") else [])
    assert shots.metadata[CONTINUES]
    (row,) = encode(tokens, [LONG], PAIR, None, CONFIG, continues=True)
    assert not set(special) & set(row.source)


def test_of_an_encoder_decoder(both_ways):
    """The encoder's text keeps what begins and ends it; the answer ends once."""
    backbone, kind = both_ways
    first, last = (backbone.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>"))
    for text in ("a film was good", LONG):
        for cut in (None, "start", "end"):
            (row,) = encode(backbone.tokens, [text], PAIR, None, CONFIG, cut=cut)
            assert row.source.count(first) == (row.source[0] == first) == (kind in ("beginning", "both"))
            assert row.source.count(last) == (row.source[-1] == last) == (kind in ("end", "both"))
    (row,) = encode_answers(backbone.tokens, ["a film"], ["very good"], CONFIG)
    assert row.candidates[0].count(last) == 1
    assert row.candidates[0][-1] == last
