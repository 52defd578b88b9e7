"""ADePT in the stack against its equations, written out."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_mixture, from_source, from_text
from dept.adapters.offset import NAMES, Offset
from dept.adapters.stack import Training
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import Request, score
from dept.engine.gradients import accumulate, weights_of
from dept.engine.train import Trial, train
from infra.errors import InputError

CONFIG = AdapterConfig(m=4, r=0, s=24, offset=3)
WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great"]
GOLD = [1, 0, 0, 2]


def mapped(backbone, seed, h=3, r=0):
    generator = torch.Generator().manual_seed(seed)
    d, s = backbone.d, CONFIG.s
    prompt, a, b, *parts = (
        torch.randn(shape, generator=generator) for shape in ((4, d), (s, r), (r, d), (d, h), (h,), (h, d), (d,))
    )
    return Adapter(prompt, a, b, offset=Offset(*parts))


def by_hand(backbone, adapter, text, word):
    """log p(word | P, e + ReLU(e W_in + b_in) W_out + b_out + scale * A B) by transformers' own forward pass."""
    tokens = torch.tensor(backbone.encode_texts([text])[0] + ([] if backbone.family == "seq2seq" else list(word)))
    e, offset = backbone.embed(tokens), adapter.offset
    e = e + torch.relu(e @ offset.inside + offset.inside_bias) @ offset.out + offset.out_bias
    e = e + adapter.scale * (adapter.a @ adapter.b)[: len(tokens)]
    whole = torch.cat([adapter.prompt, e])[None]
    if backbone.family == "seq2seq":
        logits = backbone.model(inputs_embeds=whole, labels=torch.tensor([list(word)])).logits[0]
    else:
        logits = backbone.model(inputs_embeds=whole).logits[0, -len(word) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(word)), torch.tensor(word)].sum()


@pytest.mark.parametrize("r", [0, 2])
def test_scores_are_those_of_the_equations(tiny, r):
    adapters = [mapped(tiny, 0, r=r), mapped(tiny, 1, r=r)]
    found = score(tiny, adapters, [Request(text, WORDS, i % 2) for i, text in enumerate(TEXTS)])
    for i, (text, line) in enumerate(zip(TEXTS, found, strict=True)):
        theirs = [float(by_hand(tiny, adapters[i % 2], text, w).detach()) for w in tiny.tokens.encode_words(WORDS)]
        assert line == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("budget", [12, 1000])
def test_gradients_are_those_of_the_equations(tiny, budget):
    adapter = mapped(tiny, 2)
    rows = [row.only_gold() for row in encode(tiny.tokens, TEXTS, WORDS, GOLD, CONFIG)]
    training = Training({"x": adapter}, tiny.device)
    training.join(["x"])
    accumulate(tiny, training.tensors, [(0, row) for row in rows], weights_of(rows), budget)
    plain, words = adapter.with_parts(adapter.parts), tiny.tokens.encode_words(WORDS)
    total = sum(len(words[gold]) for gold in GOLD)
    sum(-by_hand(tiny, plain, text, words[gold]) / total for text, gold in zip(TEXTS, GOLD, strict=True)).backward()
    for name in ("prompt", *NAMES):
        theirs = dict(plain.named_parameters())[name].grad
        torch.testing.assert_close(training.gradients()[name][0], theirs, atol=1e-4, rtol=1e-4)


def test_a_stack_gives_what_single_runs_give(tiny_llama):
    rows = encode(tiny_llama.tokens, TEXTS, WORDS, GOLD, CONFIG)
    config = TrainConfig(steps=5, batch_size=2, lr_prompt=0.05, lr_low_rank=0.02, eval_every=2)
    trials = [
        Trial(f"t{i}", from_text(tiny_llama, CONFIG, "good or bad?", i), config, rows, rows, seed=i) for i in range(3)
    ]
    together = train(trials, tiny_llama, EngineOptions(adapters_at_once=2))
    for trial in trials:
        alone = train([trial], tiny_llama)[trial.key].adapter
        for name, value in alone.parts.items():
            torch.testing.assert_close(together[trial.key].adapter.parts[name], value, atol=1e-4, rtol=0)
        assert not torch.equal(alone.offset.inside, trial.start.offset.inside)


def test_it_starts_as_nothing_and_transfers(tiny_llama, tmp_path):
    start = from_text(tiny_llama, CONFIG, "good or bad?", 0)
    bare = Adapter(start.prompt, start.a, start.b)
    ours, theirs = (score(tiny_llama, [x], [Request("great film", WORDS, 0)]) for x in (start, bare))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    start.save(tmp_path / "adept")
    found = Adapter.load(tmp_path / "adept")
    assert found.config == CONFIG
    assert torch.equal(from_source(found, CONFIG).offset.inside, start.offset.inside)
    with pytest.raises(InputError, match="the same m, r, s"):
        from_source(found, CONFIG.model_copy(update={"offset": 2}))
    with pytest.raises(InputError, match="cannot be mixed"):
        from_mixture([found, found], [0.5, 0.5])


def test_a_budget_of_the_pair_becomes_a_map_of_about_as_many_numbers():
    """The authors' T5-base setting: m=60 and width 19 beside DePT's m=60, r=30, s=256 (76,800 numbers)."""
    dept = AdapterConfig(m=60, r=30, s=256)
    adept = dept.as_adept(768)
    assert (adept.r, adept.offset) == (0, 19)
    assert adept.trainable(768) == 60 * 768 + 2 * 768 * 19 + 19 + 768
    assert adept.trainable(768) == pytest.approx(dept.trainable(768), rel=0.01)
