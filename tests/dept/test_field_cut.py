"""A text longer than its room loses the end of one field, and the rest stays: in training, and when it is asked for."""

import pytest

from dept.backbones.describe import describe
from dept.batches.tokenise import encode, encode_answers, encode_open
from dept.config import AdapterConfig
from tasks.cut import Places, answer_room, kept, usual_answer_length

TEMPLATE = "question: {question}\ncontext: {context}\nAnswer:"
LONG = TEMPLATE.format(question="who was it", context="a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4)
SHORT = TEMPLATE.format(question="who", context="he")


def read(tokens, row):
    return tokens.tokenizer.decode(list(row.source), skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_the_field_alone_is_cut(kind, tiny_folders):
    tokens = describe(str(tiny_folders[kind])).tokens
    config = AdapterConfig(m=4, r=2, s=120)
    (long, short) = encode(tokens, [LONG, SHORT], ("yes", "no"), [0, 1], config, cut="context", template=TEMPLATE)
    said = read(tokens, long)
    assert "who was it" in said
    assert said.rstrip().endswith("Answer:")
    assert "a b c" in said
    assert long.cut
    assert not short.cut
    longest = max(map(len, tokens.encode_words(("yes", "no"))))
    assert len(long.source) == tokens.room(config.s, longest)
    whole = tokens.encode_texts([LONG])[0]
    assert [i for i in long.source if i in whole] == list(long.source)
    if kind == "t5":
        assert long.source[-1] == whole[-1]  # the token that ends the text
    else:
        assert long.source[: len(tokens.begin)] == tuple(tokens.begin)


def test_answers_and_questions_are_cut_alike(tiny_folders):
    tokens = describe(str(tiny_folders["llama"])).tokens
    config = AdapterConfig(m=4, r=2, s=140)
    how = {"cut": "context", "template": TEMPLATE}
    (taught,) = encode_answers(tokens, [LONG], ["him"], config, 12, **how)
    (asked,) = encode_open(tokens, [LONG], config, 12, **how)
    assert taught.source == asked.source
    assert "who was it" in read(tokens, asked)
    assert "who was it" not in read(tokens, encode_open(tokens, [LONG], config, 12)[0])  # the default keeps the end
    for side in ("start", "end"):
        (row,) = encode_open(tokens, [LONG], config, 12, cut=side, template=TEMPLATE)
        assert ("who was it" in read(tokens, row)) == (side == "end")
    (row,) = encode_open(tokens, [LONG], config, 12, max_length=30)
    assert len(row.source) == 30


def test_spans_are_those_of_the_ids(tiny_folders):
    for folder in tiny_folders.values():
        tokens = describe(str(folder)).tokens
        for text in (SHORT, "café naïve 日本", "x"):
            spans, ids = tokens.spans(text), tokens.encode_texts([text])[0]
            assert len(spans) == len(ids)
            covered = {i for a, b in spans for i in range(a, b)}
            assert covered >= {i for i, char in enumerate(text) if not char.isspace()}


def test_what_stays_where_the_field_is_not_enough():
    spans = [(0, 0), (0, 4), (5, 9), (10, 12), (13, 15), (16, 20)]
    assert kept(spans, 4, (10, 15), causal=True) == [0, 1, 2, 5]
    assert kept(spans, 5, (10, 15), causal=True) == [0, 1, 2, 3, 5]
    assert kept(spans, 2, (10, 15), causal=True) == [0, 5]  # what begins a text stays
    assert kept(spans, 1, (10, 15), causal=True) == [5]
    assert kept(spans, 2, (10, 15), causal=False) == [0, 5]
    assert kept(spans, 4, None, causal=True) == [0, 3, 4, 5]
    assert kept(spans, 9, (10, 15), causal=True) == [0, 1, 2, 3, 4, 5]


def test_places_of_fields():
    places = Places(TEMPLATE)
    start, end = places.of(LONG)["question"]
    assert LONG[start:end] == "who was it"
    start, end = places.of(LONG.replace("\n", " "))["question"]  # as some clients write it
    assert LONG[start:end] == "who was it"
    assert places.of("something else") == {}
    assert Places("{{a}} {text} (b)* ").of("{a} x (b)*") == {"text": (4, 5)}


def test_room_of_an_answer():
    assert usual_answer_length(["a short one"] * 9) == 32
    assert usual_answer_length([]) == 32
    long = usual_answer_length(["word " * 88] * 20)
    assert long == 128
    assert usual_answer_length(["x"] * 99 + ["word " * 400]) == 32  # the rare ones do not take the room of all
    assert usual_answer_length(["word " * 4000]) == 512
    assert answer_room(None, long, 96) == 48
    assert answer_room(100, long, 96) == 100
    assert answer_room(None, 32, 96) == 32
