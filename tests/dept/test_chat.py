"""Tasks of `chat: true`: token ids are those of the tokenizer's own chat template, whatever it looks like."""

from dataclasses import replace

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from dept.adapters.adapter import CONTINUES
from dept.adapters.initialise import from_shots, from_text
from dept.backbones.backbone import Backbone
from dept.backbones.chat import in_chat, template_sha256
from dept.backbones.describe import describe
from dept.batches.tokenise import encode, encode_answers, encode_open
from dept.config import AdapterConfig
from dept.engine.evaluate import Request, score
from dept.engine.generate import Prompted, generate
from infra.errors import InputError
from tests.tiny import save_backbone

# As ChatML: a system's words first, the content trimmed, an end of turn that is not the end of text.
CHATML = (
    "{{ '<s>' }}{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nbe good<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2: no header of the assistant's, a blank before its words.
INST = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<s>[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' </s>' }}{% endif %}{% endfor %}"
)
# As models that think: a turn that is over is written otherwise than one that begins.
THINKS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
# As Qwen3: the last answer begins with an empty thought, for which the template does not ask.
THOUGHT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# One that asks for nothing: the header is the answer's own.
NEVER_ASKS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "inst": INST, "thinks": THINKS}
TEXTS = ["a film was good", "bad plot\nLabel:", "  not happy, very sad price"]
WORDS = ("good", "very good", "bad")
CONFIG = AdapterConfig(m=3, r=2, s=128)
SHOTS = [("a film", "good"), ("the plot was awful", "bad"), ("slow", "very good")]


def chat_folder(folder, template):
    """A tiny llama whose tokenizer has tokens for turns, and this template."""
    save_backbone(folder, "llama")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begins  # as the template does too
    tokenizer.chat_template = template
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat")
    for name, template in {**TEMPLATES, "plain": None}.items():
        chat_folder(root / name, template)
    return root


@pytest.fixture(scope="module", params=TEMPLATES)
def backbone(request, folders):
    return Backbone.from_pretrained(str(folders / request.param), device="cpu")


def theirs(backbone, *said, asks=True):
    turns = [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(said)]
    made = backbone.tokenizer.apply_chat_template(turns, add_generation_prompt=asks, return_dict=True)
    return list(made["input_ids"])


def test_texts_are_the_templates_own(backbone):
    tokens = in_chat(backbone.tokens)
    assert tokens.encode_texts(TEXTS) == [theirs(backbone, text) for text in TEXTS]
    assert in_chat(describe(str(backbone.folder)).tokens).encode_texts(TEXTS) == tokens.encode_texts(TEXTS)
    bos = backbone.tokenizer.bos_token_id
    assert backbone.encode_texts(["x"])[0][0] == bos
    assert all(ids.count(bos) <= 1 for ids in tokens.encode_texts(TEXTS))
    made = encode(backbone.tokens, TEXTS, WORDS, None, CONFIG, chat=True)
    assert [list(row.source) for row in made] == [theirs(backbone, text) for text in TEXTS]
    assert [list(row.source) for row in encode_open(backbone.tokens, TEXTS, CONFIG, 8, chat=True)] == [
        list(row.source) for row in made
    ]


def test_answers_stand_where_the_template_has_them(backbone):
    """Behind the assistant's header; the word's tokens, and what ends its turn, are those of a solved conversation."""
    tokens = in_chat(backbone.tokens)
    words = dict(zip(WORDS, tokens.encode_words(WORDS), strict=True))
    (row,) = encode_answers(backbone.tokens, TEXTS[:1], ["a good film"], CONFIG, chat=True)
    if "<think>" in str(backbone.tokenizer.chat_template):
        return  # its solved conversations have another header
    for word in WORDS:
        whole, asked = theirs(backbone, TEXTS[0], word, asks=False), theirs(backbone, TEXTS[0])
        assert whole[: len(asked)] == asked
        told = list(words[word])
        told = told[:-1] if told[-1] == tokens.end_id else told
        assert whole[len(asked) : len(asked) + len(told)] == told
        assert whole[len(asked) + len(told)] == tokens.end_id or "[INST]" in backbone.tokenizer.chat_template
    whole, answer = theirs(backbone, TEXTS[0], "a good film", asks=False), row.candidates[0]
    assert whole[: len(row.source) + len(answer) - 1] == [*row.source, *answer[:-1]]
    assert answer[-1] == tokens.end_id


@pytest.mark.parametrize(("template", "header"), [(THOUGHT, "<think>\n\n</think>\n\n"), (NEVER_ASKS, "assistant\n")])
def test_what_the_template_puts_before_an_answer_is_no_part_of_it(tmp_path, template, header):
    """It was trained, scored and written as the answer's first tokens."""
    backbone = Backbone.from_pretrained(str(chat_folder(tmp_path / "tiny", template)), device="cpu")
    (row,) = encode_answers(backbone.tokens, TEXTS[:1], ["a good film"], CONFIG, chat=True)
    whole = theirs(backbone, TEXTS[0], "a good film", asks=False)
    assert whole[: len(row.source) + len(row.candidates[0])] == [*row.source, *row.candidates[0]]
    assert backbone.tokenizer.decode(row.source).endswith(header)
    assert backbone.tokenizer.decode(row.candidates[0]) == "a good film<|im_end|>"
    (scored,) = encode(backbone.tokens, TEXTS[:1], WORDS, None, CONFIG, chat=True)
    assert scored.source == row.source
    tokens = in_chat(backbone.tokens)
    (text,) = tokens.encode_texts(TEXTS[:1], continues=True)
    said = [part for shot in SHOTS for part in shot]
    whole = theirs(backbone, *said, TEXTS[0], "a good film", asks=False)
    told = [*tokens.conversation(SHOTS, 40, 1000), *text]
    assert whole[: len(told)] == told


def test_solved_examples_are_turns(backbone):
    """Prompt and text together are one conversation."""
    tokens = in_chat(backbone.tokens)
    made = tokens.conversation(SHOTS, 40, 1000)
    said = [part for shot in SHOTS for part in shot]
    (text,) = tokens.encode_texts(TEXTS[:1], continues=True)
    assert [*made, *text] == theirs(backbone, *said, TEXTS[0])
    fewer = tokens.conversation(SHOTS, 40, len(made) - 1)
    assert [*fewer, *text] == theirs(backbone, *said[2:], TEXTS[0])
    adapter = from_shots(backbone, CONFIG, SHOTS, tokens)
    assert adapter.metadata == {CONTINUES: True}
    assert torch.equal(adapter.prompt.data, backbone.embed(torch.tensor(made)).data)


def test_a_text_cut_short_keeps_the_template(backbone):
    tokens = in_chat(backbone.tokens)
    ids = theirs(backbone, "good " * 40 + "bad")
    around = len(theirs(backbone, ""))
    for cut in ("start", "end"):
        config = CONFIG.model_copy(update={"s": len(ids) - 6})
        (row,) = encode(backbone.tokens, ["good " * 40 + "bad"], ("good", "bad"), None, config, chat=True, cut=cut)
        head, tail = tokens._around[0]
        assert row.cut
        assert list(row.source[: len(head)]) == head
        assert list(row.source[-len(tail) :]) == tail
        assert around - 2 <= len(head) + len(tail) <= around  # a blank may join the text
        assert (row.source[-len(tail) - 1] == ids[-len(tail) - 1]) == (cut == "start")  # the last word is another
    with pytest.raises(InputError, match=r"template of backbone .* takes \d+ tokens of the \d+ that a text may have"):
        encode(
            backbone.tokens, ["good " * 40], ("good",), None, CONFIG.model_copy(update={"s": len(head) + 3}), chat=True
        )


def test_a_field_is_cut_within_the_template(backbone):
    template = "{text} and {other}"
    text = "good " * 30 + "and happy food"
    config = CONFIG.model_copy(update={"s": len(theirs(backbone, text)) - 8})
    (row,) = encode(backbone.tokens, [text], ("good",), None, config, chat=True, cut="text", template=template)
    told = backbone.tokenizer.decode(row.source)
    assert "and happy food" in told
    assert row.source[-3:] == tuple(theirs(backbone, text)[-3:])
    assert row.source[:2] == tuple(theirs(backbone, text)[:2])


def test_an_adapters_file_says_that_it_chats(backbone):
    adapter = from_text(backbone, CONFIG, "good or bad", 0)
    plain = score(backbone, [adapter], [Request(TEXTS[0], WORDS, 0)])
    adapter.metadata["chat"] = True
    talked = score(backbone, [adapter], [Request(TEXTS[0], WORDS, 0)])
    assert talked != plain
    rows = encode(backbone.tokens, TEXTS[:1], WORDS, None, CONFIG, chat=True)[0]
    wanted = []
    for word in rows.candidates:
        ids = torch.tensor([*rows.source, *word])
        shift = adapter.scale * (adapter.a @ adapter.b)[: len(ids)]
        logits = backbone.model(inputs_embeds=torch.cat([adapter.prompt, backbone.embed(ids) + shift])[None]).logits[0]
        at = logits[CONFIG.m + len(rows.source) - 1 :][: len(word)].log_softmax(-1)
        wanted.append(float(at[torch.arange(len(word)), torch.tensor(word)].sum().detach()))
    torch.testing.assert_close(torch.tensor(talked[0]), torch.tensor(wanted), atol=1e-4, rtol=0)
    assert len(generate(backbone, [adapter], [Prompted(TEXTS[0], 0)], 4)) == 1


def test_a_turn_ends_where_the_template_ends_it(folders):
    tokens = in_chat(Backbone.from_pretrained(str(folders / "chatml"), device="cpu").tokens)
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.end_id) == "<|im_end|>"
    assert in_chat(describe(str(folders / "chatml")).tokens).end_ids == tokens.end_ids
    assert len(tokens.end_ids) == 2


def test_what_has_no_template_is_refused_in_one_line(folders, tiny_folders):
    for of in (Backbone.from_pretrained(str(folders / "plain"), device="cpu"), describe(str(folders / "plain"))):
        with pytest.raises(
            InputError, match=r"^chat: the tokenizer of backbone plain has no chat template. Remedy: .*"
        ):
            encode(of.tokens, TEXTS, WORDS, None, CONFIG, chat=True)
    with pytest.raises(InputError, match=r"chat: backbone tiny-t5 continues no text. Remedy"):
        in_chat(describe(str(tiny_folders["t5"])).tokens)


@pytest.mark.parametrize(
    "template", ["{{ nothing.there }}", "{% for m in messages %}{{ m['role'] }}{% endfor %}", "{% if %}"]
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(folders, template):
    backbone = Backbone.from_pretrained(str(folders / "plain"), device="cpu")
    backbone.tokenizer.chat_template = template
    with pytest.raises(InputError, match=r"^chat: the chat template of backbone plain .*Remedy") as caught:
        in_chat(backbone.tokens)
    assert "\n" not in str(caught.value)


def test_its_sha256_is_of_the_template(folders):
    told = [in_chat(Backbone.from_pretrained(str(folders / name), device="cpu").tokens) for name in TEMPLATES]
    assert len({template_sha256(tokens) for tokens in told}) == 3
    was = template_sha256(told[0])
    told[0].frame = replace(told[0].frame, header="<think></think>")  # what is read behind what it asks for
    assert template_sha256(told[0]) != was
