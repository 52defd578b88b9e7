"""How adapters start: mixtures, shots as a prompt, plain prompt tuning; and free answers."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import factored, from_mixture, from_prompt, from_shots, from_text
from dept.adapters.stack import Tensors
from dept.batches.tokenise import encode, encode_answers
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import predictions, score_rows, summarise
from dept.engine.generate import Prompted, generate
from dept.engine.gradients import accumulate, weights_of
from dept.engine.mixture import learn_weights, mixed
from dept.engine.train import Trial, train
from infra.errors import InputError

CONFIG = AdapterConfig(m=4, r=2, s=24)
WORDS = ("negative", "positive")
TEXTS = ["the film was good", "bad plot and awful acting", "it was very happy", "slow service of the food"]
LABELS = [1, 0, 1, 0]


def random_adapter(backbone, seed, config=CONFIG):
    torch.manual_seed(seed)
    shapes = (config.m, backbone.d), (config.s, config.r), (config.r, backbone.d)
    return Adapter(*(torch.randn(shape) for shape in shapes), alpha=config.alpha, layout=config.layout)


def test_a_mixture_is_the_nearest_of_its_rank(tiny_llama):
    sources = [random_adapter(tiny_llama, seed) for seed in range(3)]
    weights = [0.5, 0.3, 0.2]
    made = from_mixture(sources, weights)
    torch.testing.assert_close(made.prompt.data, sum(w * s.prompt.data for w, s in zip(weights, sources, strict=True)))
    product = sum(w * (s.a @ s.b).detach() for w, s in zip(weights, sources, strict=True))
    singular = torch.linalg.svdvals(product)
    error = torch.linalg.norm(product - (made.a @ made.b).detach())
    torch.testing.assert_close(error, singular[CONFIG.r :].norm(), rtol=1e-4, atol=1e-4)  # Eckart-Young
    alone = from_mixture(sources, [0.0, 1.0, 0.0])
    torch.testing.assert_close(
        (alone.a @ alone.b).detach(), (sources[1].a @ sources[1].b).detach(), rtol=1e-4, atol=1e-4
    )
    a, b = factored(torch.randn(3, 8), 5)  # of lower rank than asked for: filled up with zeros
    assert (a.shape, b.shape) == ((3, 5), (5, 8))
    for wrong in ([0.5, 0.5], [1.5, -0.5, 0.0], [0.2, 0.2, 0.2]):
        with pytest.raises(InputError, match="mixture"):
            from_mixture(sources, wrong)


def test_weights_of_a_mixture_follow_the_true_gradient(tiny):
    """The stack of rank n * r gives what each mixture, put together by hand, gives; and its gradient."""
    sources = [random_adapter(tiny, seed) for seed in range(3)]
    rows = [row.only_gold() for row in encode(tiny.tokens, TEXTS, WORDS, LABELS, CONFIG)]
    fixed = Tensors.of(sources, tiny.device)
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    together = mixed(fixed, weights)
    for cell in range(2):
        by_hand = sum(w * s.scale * (s.a @ s.b) for w, s in zip(weights[cell], sources, strict=True))
        ours = together.scale[cell] * together.a[cell] @ together.b[cell]
        torch.testing.assert_close(ours.detach(), by_hand.detach(), rtol=1e-5, atol=1e-5)

    def loss(values):
        made = mixed(fixed, values)
        items = [(cell, row) for cell in range(2) for row in rows]
        scores = torch.tensor(score_rows(tiny, made, items, 64))
        return -scores.view(2, -1).sum(1) / sum(len(row.candidates[0]) for row in rows)

    logits = weights.log().requires_grad_()
    made = mixed(Tensors(fixed.prompt.detach(), fixed.a.detach(), fixed.b.detach(), fixed.scale), logits.softmax(1))
    leaves = [part.detach().requires_grad_() for part in (made.prompt, made.a)]
    items = [(cell, row) for cell in range(2) for row in rows]
    accumulate(tiny, Tensors(*leaves, made.b, made.scale), items, weights_of(rows) * 2, 64)
    torch.autograd.backward((made.prompt, made.a), [leaf.grad for leaf in leaves])
    step = 1e-2
    for cell, source in ((0, 0), (1, 2)):
        moved = logits.detach().clone()
        moved[cell, source] += step
        other = logits.detach().clone()
        other[cell, source] -= step
        numeric = (loss(moved.softmax(1)) - loss(other.softmax(1)))[cell] / (2 * step)
        torch.testing.assert_close(logits.grad[cell, source], numeric, rtol=0.05, atol=2e-3)


def test_weights_move_to_the_source_that_fits(tiny_llama):
    rows = encode(tiny_llama.tokens, TEXTS, WORDS, LABELS, CONFIG)
    start = from_text(tiny_llama, CONFIG, "a good film", 0)
    steps = TrainConfig(steps=40, batch_size=4, lr_prompt=0.1, lr_low_rank=0.01)
    good = train([Trial("t", start, steps, rows, rows)], tiny_llama, EngineOptions(token_budget=256))["t"].adapter
    sources = [random_adapter(tiny_llama, 1), good, random_adapter(tiny_llama, 2)]
    gold = [row.only_gold() for row in rows]
    weights = learn_weights(tiny_llama, sources, {"a": gold, "b": gold[:2]}, steps=12)
    for found in weights.values():
        assert sum(found) == pytest.approx(1, abs=1e-5)
        assert found[1] > 0.6


def test_prompt_only_takes_the_prompt_and_draws_a_new_pair(tiny_llama):
    source = random_adapter(tiny_llama, 3)
    made = from_prompt(source, CONFIG, seed=5)
    assert torch.equal(made.prompt, source.prompt)
    assert not made.b.any()
    assert torch.equal(made.a, from_text(tiny_llama, CONFIG, "x", 5).a)
    with pytest.raises(InputError, match="m=4"):
        from_prompt(source, CONFIG.model_copy(update={"m": 5}), 0)


def test_shots_as_a_prompt_are_the_text_itself(tiny_llama):
    """In-context scores equal those of shots and text read as one sequence by the plain model."""
    shots = [("the food was good :", "positive"), ("the plot was bad :", "negative")]
    made = from_shots(tiny_llama, CONFIG, shots)
    assert made.config.r == 0
    text = "it was very happy :"
    rows = encode(tiny_llama.tokens, [text], WORDS, None, made.config)
    (scores,) = score_rows(tiny_llama, Tensors.of([made], tiny_llama.device), [(0, row) for row in rows])
    before = [i for t, a in shots for part in (t, f" {a}\n\n") for i in tiny_llama.encode_texts([part])[0]]
    assert made.prompt.shape[0] == len(before)
    for candidate, found in zip(rows[0].candidates, scores, strict=True):
        ids = torch.tensor([[*before, *rows[0].source, *candidate]])
        logits = tiny_llama.model(ids).logits[0].log_softmax(-1)
        n = ids.shape[1] - len(candidate)
        expected = sum(logits[n - 1 + j, token] for j, token in enumerate(candidate))
        assert found == pytest.approx(expected.item(), abs=1e-4)


def test_shots_that_do_not_fit_are_left_out_first_ones_first(tiny_llama):
    many = [(f"the film {i} was good :", "positive") for i in range(60)]
    made = from_shots(tiny_llama, CONFIG, many)
    assert made.prompt.shape[0] + CONFIG.s <= tiny_llama.positions == 256
    last = tiny_llama.encode_texts([" positive\n\n"])[0]
    torch.testing.assert_close(made.prompt.data[-len(last) :], tiny_llama.embed(torch.tensor(last)).data)


def test_in_context_is_for_causal_backbones(tiny_folders):
    from dept.backbones.backbone import Backbone

    with pytest.raises(InputError, match="encoder-decoder"):
        from_shots(Backbone.from_pretrained(str(tiny_folders["t5"]), device="cpu"), CONFIG, [("a", "b")])


def test_rank_0_is_plain_prompt_tuning(tiny, tmp_path):
    config = CONFIG.as_prompt_tuning(tiny.d)
    assert config.r == 0
    assert abs(config.trainable(tiny.d) - CONFIG.trainable(tiny.d)) <= tiny.d / 2
    rows = encode(tiny.tokens, TEXTS, WORDS, LABELS, config)
    start = from_text(tiny, config, "a good film", 0)
    found = train(
        [Trial("p", start, TrainConfig(steps=10, lr_prompt=0.1), rows, rows)], tiny, EngineOptions(token_budget=64)
    )["p"]
    assert found.failure is None
    assert not torch.equal(found.adapter.prompt, start.prompt)
    found.adapter.save(tmp_path / "p")
    again = Adapter.load(tmp_path / "p")
    assert again.config == config
    # A pair of zeros does not move and adds nothing: the same prompt must come out.
    pair = Adapter(start.prompt, torch.zeros(config.s, 1), torch.zeros(1, tiny.d))
    other = train(
        [Trial("q", pair, TrainConfig(steps=10, lr_prompt=0.1), rows, rows)], tiny, EngineOptions(token_budget=64)
    )["q"]
    torch.testing.assert_close(other.adapter.prompt, found.adapter.prompt, rtol=1e-4, atol=1e-5)


def test_free_answers_are_learned_and_written(tiny):
    """Training on answers of several tokens, then generating them; the loss counts every token and the end."""
    config = AdapterConfig(m=6, r=4, s=40)
    answers = ["positive food", "sad", "very good plot", "red green blue"]
    rows = encode_answers(tiny.tokens, TEXTS, answers, config, longest=16)
    assert all(len(row.candidates) == 1 and row.candidates[0][-1] == tiny.end_id for row in rows)
    start = from_text(tiny, config, "a good film", 0)
    recipe = TrainConfig(steps=150, batch_size=4, lr_prompt=0.3, lr_low_rank=0.1, warmup=0, eval_every=30, clip=None)
    found = train([Trial("g", start, recipe, rows, rows)], tiny, EngineOptions(token_budget=256))["g"]
    assert found.failure is None
    assert found.state.best["likelihood"] == found.state.best["score"]
    assert found.state.loss_curve[-1][1] < 0.75 * found.state.loss_curve[0][1]
    if tiny.family == "seq2seq":
        return  # a random decoder of two layers cannot be brought to write these by its encoder's input alone
    written = generate(tiny, [found.adapter], [Prompted(text, 0) for text in TEXTS], max_new_tokens=16)
    right = sum(ours.strip() == answer for ours, answer in zip(written, answers, strict=True))
    assert right >= 2


def test_summaries_of_words_answers_and_both(tiny_llama):
    words = encode(tiny_llama.tokens, TEXTS[:2], WORDS, [1, 0], CONFIG)
    three = encode(tiny_llama.tokens, TEXTS[2:3], (*WORDS, "very good"), [2], CONFIG)
    free = encode_answers(tiny_llama.tokens, TEXTS[3:], ["sad"], CONFIG, 4)
    of_words = summarise([[-2.0, -1.0], [-2.0, -1.0]], words)
    assert (of_words["accuracy"], of_words["score"]) == (50.0, 50.0)
    mixed_words = summarise([[-2.0, -1.0], [-2.0, -1.0], [-3.0, -2.0, -1.0]], [*words, *three])
    assert mixed_words["accuracy"] == pytest.approx(200 / 3)
    assert "macro_f1" not in mixed_words
    tokens = len(free[0].candidates[0])
    of_answers = summarise([[-0.5 * tokens]], free)
    assert of_answers["likelihood"] == pytest.approx(100 * 2.718281828**-0.5)
    both = summarise([[-2.0, -1.0], [-2.0, -1.0], [-0.5 * tokens]], [*words, *free])
    assert both["score"] == pytest.approx((50 + 50 + of_answers["score"]) / 3)
    assert "accuracy" not in both
    assert predictions([[-1.0, float("nan")], [-1.0, -2.0]]) == [-1, 0]
