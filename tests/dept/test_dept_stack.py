"""A stack gives what single runs give; log-probabilities are those of the plain concatenated forward pass."""

import time

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.adapters.stack import NAMES, Tensors
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import Request, score
from dept.engine.gradients import accumulate, weights_of
from dept.engine.train import Trial, data_order, train

CONFIG = AdapterConfig(m=4, r=2, s=24)
WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]


def random_adapter(backbone, seed, config=CONFIG):
    torch.manual_seed(seed)
    return Adapter(
        torch.randn(config.m, backbone.d),
        torch.randn(config.s, config.r),
        torch.randn(config.r, backbone.d),
        alpha=config.alpha,
        layout=config.layout,
    )


@pytest.mark.parametrize("layout", ["adjacent", "paper"])
def test_scores_equal_the_public_forward_pass(tiny, layout):
    """Every label word alone, as one padded batch of the public API, gives the packed scores."""
    config = CONFIG.model_copy(update={"layout": layout})
    adapter = random_adapter(tiny, 0, config)
    scores = score(tiny, [adapter], [Request(text, WORDS, 0) for text in TEXTS])
    longest = max(map(len, tiny.tokens.encode_words(WORDS)))
    for text, found in zip(TEXTS, scores, strict=True):
        source = tiny.encode_texts([text])[0]
        for candidate, ours in zip(tiny.tokens.encode_words(WORDS), found, strict=True):
            if tiny.family == "seq2seq":
                ids, labels = torch.tensor([source]), torch.tensor([list(candidate)])
            else:
                pad = 0 if layout == "adjacent" else longest - len(candidate)  # the longest word sets the rows
                ids = torch.tensor([source + list(candidate) + [0] * pad])
                labels = torch.tensor([[-100] * len(source) + list(candidate) + [-100] * pad])
            loss = tiny(adapter, ids, None, labels).loss.detach()
            assert ours == pytest.approx(-float(loss) * len(candidate), abs=1e-4)


def trials_of(backbone, n=4):
    rows = encode(backbone.tokens, TEXTS, WORDS, [1, 0, 0, 2, 0], CONFIG)
    return [
        Trial(
            f"t{i}",
            random_adapter(backbone, i) if i % 2 else from_text(backbone, CONFIG, "good or bad?", i),
            TrainConfig(
                steps=6 + 2 * i,
                batch_size=2 + i % 2,
                lr_prompt=0.05 * (i + 1),
                lr_low_rank=0.01,
                warmup=0.2,
                eval_every=3,
                clip=None if i % 3 else 0.5,
                weight_decay=0.01 * i,
                patience=50,
                average=0.4 * (i % 3),
                dropout=0.3 * (i % 2),
                noise=4.0 * (i // 2),
                label_smoothing=0.1 * (i % 3),
                objective="words" if i > 1 else "vocabulary",
                schedule=("linear", "cosine", "constant")[i % 3],
            ),
            rows[i % 2 :],
            rows[:3],
            seed=i,
        )
        for i in range(n)
    ]


def assert_same(one, other, tolerance=1e-4):
    for name in NAMES:
        torch.testing.assert_close(getattr(one.adapter, name), getattr(other.adapter, name), atol=tolerance, rtol=0)
    assert one.state.best_step == other.state.best_step
    ours, theirs = (torch.tensor([loss for _, loss in r.state.loss_curve]) for r in (one, other))
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("at_once", "budget", "turned"), [(4, 512, False), (2, 512, False), (4, 16, True), (3, 40, True)]
)
def test_a_stack_gives_what_single_runs_give(tiny, at_once, budget, turned):
    """Any order, any token budget, and with trials that join and leave half-way (at_once < trials)."""
    trials = trials_of(tiny)
    alone = {t.key: train([t], tiny)[t.key] for t in trials}
    options, points = EngineOptions(adapters_at_once=at_once, token_budget=budget), []
    began = time.time()
    together = train(trials[::-1] if turned else trials, tiny, options, on_point=points.append)
    for key, result in together.items():
        assert_same(result, alone[key])
        assert_told(points, result)
    times = [point.at for point in points]
    assert times == sorted(times)
    assert began <= times[0] < times[-1] <= time.time()


def assert_told(points, result):
    """What was told while it trained is what came out."""
    state = result.state
    told = {"loss": state.loss_curve, "validation_loss": state.validation_loss_curve}
    for curve, wanted in (told | {"validation_score": state.validation_curve}).items():
        assert [(p.step, p.value) for p in points if (p.key, p.curve) == (result.key, curve)] == wanted != []


def test_the_update_is_torch_adamw(tiny):
    """One trial against torch.optim.AdamW on the public API's loss."""
    trial = trials_of(tiny, 1)[0]
    config = trial.config.model_copy(update={"clip": None, "weight_decay": 0.01, "eval_every": 100})
    trial = Trial("x", trial.start, config, trial.rows, trial.rows[:1], seed=3)
    adapter = Adapter(trial.start.prompt, trial.start.a, trial.start.b)
    optimizer = torch.optim.AdamW(
        [
            {"params": [adapter.prompt], "lr": config.lr_prompt},
            {"params": [adapter.a, adapter.b], "lr": config.lr_low_rank},
        ],
        weight_decay=0.01,
    )
    from dept.adapters.optimizer import rate_factor

    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(config.steps):
        rows = [trial.rows[i].only_gold() for i in data_order(len(trial.rows), config.batch_size, step, 3)]
        optimizer.zero_grad()
        total = sum(len(r.candidates[0]) for r in rows)
        for row in rows:
            candidate = row.candidates[0]
            ids = row.source if tiny.family == "seq2seq" else row.source + candidate
            labels = candidate if tiny.family == "seq2seq" else (-100,) * len(row.source) + candidate
            out = tiny(adapter, torch.tensor([ids]), None, torch.tensor([labels]))
            (out.loss * len(candidate) / total).backward()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_factor(step, config.steps, config.warmup)
        optimizer.step()
    trained = {}

    def grab(result):
        trained[result.key] = result

    trial_last = Trial("x", trial.start, config, trial.rows, (), seed=3)  # no validation: the last step is kept
    train([trial_last], tiny, on_result=grab)
    for name in NAMES:
        torch.testing.assert_close(getattr(trained["x"].adapter, name), getattr(adapter, name).data, atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [12, 1000])
def test_prefix_gradients_are_those_of_the_plain_concatenation(tiny_llama, budget):
    """Keys and values computed once per step, rows in several micro-batches or in one pack: exact to 1e-5."""
    adapter = random_adapter(tiny_llama, 5)
    rows = [row.only_gold() for row in encode(tiny_llama.tokens, TEXTS, WORDS, [1, 0, 0, 2, 0], CONFIG)]
    tensors = Tensors.of([adapter], tiny_llama.device)
    ours = {name: getattr(tensors, name).detach().requires_grad_() for name in NAMES}
    items = [(0, row) for row in rows]
    accumulate(tiny_llama, Tensors(**ours, scale=tensors.scale), items, weights_of(rows), budget)
    plain = Adapter(adapter.prompt, adapter.a, adapter.b)
    total = sum(len(r.candidates[0]) for r in rows)
    for row in rows:
        candidate = row.candidates[0]
        tokens = torch.tensor([row.source + candidate])
        embedded = tiny_llama.embed(tokens)[0] + plain.scale * (plain.a @ plain.b)[: tokens.shape[1]]
        whole = torch.cat([plain.prompt, embedded])[None]
        logits = tiny_llama.model(inputs_embeds=whole).logits[0]
        at = torch.arange(len(candidate)) + CONFIG.m + len(row.source) - 1
        nll = -logits[at].log_softmax(-1)[torch.arange(len(candidate)), torch.tensor(candidate)].sum()
        (nll / total).backward()
    for name in NAMES:
        torch.testing.assert_close(ours[name].grad[0], getattr(plain, name).grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rate", "bound", "reason"), [(1e38, 50, "not finite"), (0.1, 0.5, "above max_loss")])
def test_a_diverging_trial_fails_alone(tiny_llama, rate, bound, reason):
    trials = trials_of(tiny_llama, 3)
    config = TrainConfig(steps=30, lr_prompt=rate, lr_low_rank=rate, max_loss=bound, clip=None)
    wild = Trial("wild", trials[0].start, config, trials[0].rows, trials[0].validation)
    results = train([trials[1], wild, trials[2]], tiny_llama)
    assert reason in results["wild"].failure
    for trial in trials[1:]:
        assert results[trial.key].failure is None
        assert_same(results[trial.key], train([trial], tiny_llama)[trial.key])


def test_the_step_of_the_lowest_loss_is_kept(tiny_llama, monkeypatch):
    """Of equals the better score; a loss that is not finite is the worst."""
    script = [(50.0, 1.0), (90.0, 1.1), (40.0, 0.8), (60.0, 0.8), (99.0, float("nan")), (99.0, 0.9)]
    validations = iter({"score": score, "loss": loss} for score, loss in script)
    monkeypatch.setattr("dept.engine.state.summarise", lambda *_: next(validations))
    first = trials_of(tiny_llama, 1)[0]
    config = TrainConfig(steps=10, eval_every=2, patience=9)
    trial = Trial("one", first.start, config, first.rows, first.validation)
    state = train([trial], tiny_llama)["one"].state
    assert (state.best_step, state.best) == (6, {"score": 60.0, "loss": 0.8})
    assert state.validation_curve == [(2 * i, score) for i, (score, _) in enumerate(script)]


@pytest.mark.parametrize("at", [5, 12, 18, 23])
def test_same_bits_twice_and_after_a_kill(tiny, tmp_path, at):
    trials = trials_of(tiny)
    whole = train(trials, tiny, EngineOptions(adapters_at_once=2))
    again = train(trials, tiny, EngineOptions(adapters_at_once=2))

    class KilledError(Exception):
        pass

    calls = 0

    def die(_tokens):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KilledError

    done = {}
    with pytest.raises(KilledError):
        train(
            trials,
            tiny,
            EngineOptions(adapters_at_once=2, checkpoint_folder=tmp_path, checkpoint_seconds=0),
            on_tokens=die,
            on_result=lambda result: done.setdefault(result.key, result),
        )
    resumed = done | train(
        [t for t in trials if t.key not in done], tiny, EngineOptions(adapters_at_once=2, checkpoint_folder=tmp_path)
    )
    for key, result in whole.items():
        for name in NAMES:
            assert torch.equal(getattr(result.adapter, name), getattr(again[key].adapter, name))
            assert torch.equal(getattr(result.adapter, name), getattr(resumed[key].adapter, name))
    assert not any(tmp_path.iterdir())


def test_score_mixes_shapes_and_tasks(tiny):
    other = AdapterConfig(m=7, r=3, s=30)
    adapters = [random_adapter(tiny, 0), random_adapter(tiny, 1, other), random_adapter(tiny, 2)]
    requests = [Request(t, WORDS if i % 2 else ("red", "blue"), i % 3) for i, t in enumerate(TEXTS)]
    mixed = score(tiny, adapters, requests)
    for request, found in zip(requests, mixed, strict=True):
        alone = score(tiny, [adapters[request.adapter]], [Request(request.text, request.words, 0)])[0]
        assert found == pytest.approx(alone, abs=1e-4)
