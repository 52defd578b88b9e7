"""A head in the stack: features, gradients and answers are those of a plain, written-out pass of one text."""

import dataclasses

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.head import Head
from dept.adapters.initialise import from_source, from_text
from dept.adapters.stack import Tensors, Training
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import Request, score, score_rows
from dept.engine.gradients import accumulate, weights_of
from dept.engine.train import Trial, train
from dept.readout import Readout, normalised
from infra.errors import InputError

LAYERS = (0.5, 1.0)
CONFIG = AdapterConfig(m=4, r=2, s=24, answers="both", layers=LAYERS)
WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]
GOLD = [1, 0, 0, 2, 0]


def headed(backbone, seed, labels=3, config=CONFIG):
    generator = torch.Generator().manual_seed(seed)
    shapes = (config.m, backbone.d), (config.s, config.r), (config.r, backbone.d)
    features = len(LAYERS) * backbone.d
    head = Head(
        torch.randn(labels, features, generator=generator),
        torch.randn(labels, generator=generator),
        torch.randn(features, generator=generator),
        torch.rand(features, generator=generator) + 0.5,
    )
    adapter = Adapter(*(torch.randn(s, generator=generator) for s in shapes), head=head, layers=LAYERS)
    adapter.readout = Readout(0.3)
    return adapter


def plain(backbone, adapter, text, gold=None):
    """Log-probabilities of words and logits of the head of one text, by transformers' own forward pass."""
    ids = torch.tensor(backbone.encode_texts([text]))
    embedded = backbone.embed(ids) + adapter.scale * (adapter.a @ adapter.b)[: ids.shape[1]]
    whole = torch.cat([adapter.prompt[None], embedded], dim=1)
    body = backbone.model.get_encoder() if backbone.family == "seq2seq" else backbone.model.base_model
    states = body(inputs_embeds=whole, output_hidden_states=True).hidden_states
    count = len(states) - 1
    features = torch.cat([states[round(depth * count)][0, len(adapter.prompt) :].mean(0) for depth in LAYERS])
    head = adapter.head
    return head.weight @ ((features - head.mean) / head.spread) + head.bias


def test_answers_are_those_of_the_plain_pass(tiny):
    """Texts of two adapters with two and three labels, in one stack, packed: words and head, mean by weight."""
    adapters = [headed(tiny, 0), headed(tiny, 1, labels=2)]
    words = [WORDS, WORDS[:2]]
    found = score(tiny, adapters, [Request(text, words[which], which) for text in TEXTS for which in (0, 1)])
    bare = [Adapter(a.prompt, a.a, a.b) for a in adapters]
    alone = score(tiny, bare, [Request(text, words[which], which) for text in TEXTS for which in (0, 1)])
    places = [(text, which) for text in TEXTS for which in (0, 1)]
    for (text, which), ours, by_words in zip(places, found, alone, strict=True):
        head = plain(tiny, adapters[which], text).log_softmax(0)
        words_part = torch.tensor(by_words).log_softmax(0)
        expected = (0.7 * words_part + 0.3 * head).log_softmax(0)
        torch.testing.assert_close(torch.tensor(ours), expected.detach(), atol=1e-4, rtol=0)
        assert sum(map(torch.exp, map(torch.tensor, ours))) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("budget", [12, 1000])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_gradients_are_those_of_the_plain_loss(tiny, budget, weight):
    """Mean over the texts of the cross-entropy among the words plus that of the head; the head alone at weight 1."""
    adapter = headed(tiny, 2)
    adapter.readout = Readout(weight)
    rows = encode(tiny.tokens, TEXTS, WORDS, GOLD, CONFIG)
    training = Training({"x": adapter}, tiny.device)
    training.join(["x"])
    sums = accumulate(tiny, training.tensors, [(0, row) for row in rows], weights_of(rows), budget)
    by_hand = adapter.with_parts(adapter.parts)
    total = torch.zeros(())
    for text, gold in zip(TEXTS, GOLD, strict=True):
        total = total - plain(tiny, by_hand, text).log_softmax(0)[gold] / len(TEXTS)
        if weight < 1:
            total = total - _word_scores(tiny, by_hand, text).log_softmax(0)[gold] / len(TEXTS)
    total.backward()
    assert float(sums.losses[0].detach()) == pytest.approx(float(total.detach()), abs=1e-4)
    for name, gradient in training.gradients().items():
        theirs = dict(by_hand.named_parameters())[name].grad
        torch.testing.assert_close(gradient[0][: len(theirs)], theirs, atol=1e-4, rtol=1e-4)


def _word_scores(backbone, adapter, text):
    source = backbone.encode_texts([text])[0]
    found = []
    for candidate in map(list, backbone.tokens.encode_words(WORDS)):
        if backbone.family == "seq2seq":
            ids, labels = torch.tensor([source]), torch.tensor([candidate])
        else:
            ids, labels = torch.tensor([source + candidate]), torch.tensor([[-100] * len(source) + candidate])
        found.append(-backbone(adapter, ids, None, labels).loss * len(candidate))
    return torch.stack(found)


def trials_of(backbone, n=4):
    found = []
    for i in range(n):
        labels = 2 + i % 2
        rows = encode(backbone.tokens, TEXTS, WORDS[:labels], [min(gold, labels - 1) for gold in GOLD], CONFIG)
        config = TrainConfig(steps=5 + i, batch_size=2, lr_prompt=0.05, lr_head=0.01 * i, eval_every=2, patience=50)
        found.append(Trial(f"t{i}", headed(backbone, i, labels), config, rows[i % 2 :], rows[:3], seed=i))
    return found


@pytest.mark.parametrize(("at_once", "budget"), [(4, 512), (2, 24)])
def test_a_stack_gives_what_single_runs_give(tiny, at_once, budget):
    trials = trials_of(tiny)
    together = train(trials, tiny, EngineOptions(adapters_at_once=at_once, token_budget=budget))
    for trial in trials:
        alone = train([trial], tiny)[trial.key]
        assert alone.state.best_step == together[trial.key].state.best_step
        for name, value in alone.adapter.parts.items():
            torch.testing.assert_close(together[trial.key].adapter.parts[name], value, atol=1e-4, rtol=0)
        moved = (alone.adapter.head.weight - trial.start.head.weight).abs().max()
        assert (float(moved) > 0) == (trial.config.lr_head > 0)


def test_a_killed_stack_of_heads_goes_on(tiny, tmp_path):
    trials = trials_of(tiny)
    options = EngineOptions(checkpoint_folder=tmp_path, checkpoint_seconds=0)
    left = []

    def kill(result):
        left.append(result)
        if len(left) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(trials, tiny, options, on_result=kill)
    went_on = []
    found = train(trials[2:], tiny, options, on_restored=lambda key, state: went_on.append(state.step))
    assert min(went_on) > 0
    for trial in trials[2:]:
        for name, value in train([trial], tiny)[trial.key].adapter.parts.items():
            torch.testing.assert_close(found[trial.key].adapter.parts[name], value, atol=1e-4, rtol=0)


def test_words_alone_are_trained_as_a_choice_among_them(tiny):
    """objective: words, no head; words of several tokens count once."""
    adapter = Adapter(*(headed(tiny, 3).parts[name] for name in ("prompt", "a", "b")))
    rows = encode(tiny.tokens, TEXTS, WORDS, GOLD, CONFIG)
    (trial,) = [Trial("x", adapter, TrainConfig(objective="words"), rows, ())]
    learned = [trial.learned(row) for row in rows]
    sums = accumulate(tiny, Tensors.of([adapter], tiny.device), [(0, r) for r in learned], weights_of(learned), 100)
    scores = torch.tensor(score_rows(tiny, Tensors.of([adapter], tiny.device), [(0, row) for row in rows]))
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor(GOLD))
    assert float(sums.losses[0].detach()) == pytest.approx(float(expected), abs=1e-4)
    paper = dataclasses.replace(trial, config=TrainConfig(objective="vocabulary"))
    assert all(len(paper.learned(row).candidates) == 1 for row in rows)


def test_files_hold_head_and_readout(tiny, tmp_path):
    adapter = headed(tiny, 4)
    digest = adapter.save(tmp_path / "headed")
    found = Adapter.load(tmp_path / "headed")
    assert (found.sha256, found.layers, found.readout) == (digest, LAYERS, Readout(0.3))
    assert found.config == CONFIG
    for name, value in adapter.parts.items():
        assert torch.equal(found.parts[name], value)
    Adapter(*(adapter.parts[n] for n in ("prompt", "a", "b"))).save(tmp_path / "bare")
    assert '"format": 1' in (tmp_path / "bare" / "adapter.json").read_text()
    with pytest.raises(InputError, match="does not read"):
        Adapter(adapter.prompt, adapter.a, adapter.b, head=adapter.head, layers=(1.0,))


def test_a_head_does_not_transfer(tiny):
    source = headed(tiny, 5)
    start = from_source(source, CONFIG.model_copy(update={"answers": "words"}))
    assert start.head is None
    assert torch.equal(start.prompt, source.prompt)
    text = from_text(tiny, CONFIG, "good or bad?", 0)
    with pytest.raises(InputError, match="different"):
        Tensors.of([text, source], tiny.device)


def test_a_budget_counts_the_head():
    assert CONFIG.trainable(10, labels=3) - CONFIG.trainable(10) == (2 * 10 + 1) * 3


def test_log_probabilities_keep_what_is_not_finite():
    assert normalised([float("nan"), 0.0])[1] == 0.0
    assert sum(map(torch.exp, torch.tensor(normalised([1.0, 2.0])))) == pytest.approx(1)
