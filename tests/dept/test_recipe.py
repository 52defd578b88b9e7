"""Averaging, dropout, noise, smoothing and patience: each is what a plain, written-out loop gives."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.optimizer import rate_factor
from dept.adapters.stack import NAMES
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.disturb import Noise, dropped
from dept.engine.state import State
from dept.engine.train import Trial, data_order, train
from dept.trial import TrialSpec
from tests.registry.ledger_helpers import make_spec

CONFIG = AdapterConfig(m=4, r=2, s=24)
WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]
ALL = {"average": 0.7, "dropout": 0.4, "noise": 9.0, "label_smoothing": 0.2}


def start_of(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (CONFIG.m, backbone.d), (CONFIG.s, CONFIG.r), (CONFIG.r, backbone.d)
    return Adapter(*(torch.randn(*shape, generator=generator) for shape in shapes))


def rows_of(backbone, words=WORDS):
    return encode(backbone.tokens, TEXTS, words, [min(g, len(words) - 1) for g in (1, 0, 0, 2, 0)], CONFIG)


def logits_of(backbone, adapter, prompt, row, noise, candidate):
    """Logits [tokens of the candidate, vocabulary] by transformers' own forward pass of one text and one word."""
    inner = () if backbone.family == "seq2seq" else candidate[:-1]
    embedded = backbone.embed(torch.tensor([row.source + inner]))
    added = torch.cat([noise, torch.zeros(len(inner), backbone.d)])
    embedded = embedded + added + adapter.scale * (adapter.a @ adapter.b)[: embedded.shape[1]]
    whole = torch.cat([prompt[None], embedded], dim=1)
    if backbone.family == "seq2seq":
        return backbone.model(inputs_embeds=whole, labels=torch.tensor([candidate])).logits[0]
    return backbone.model(inputs_embeds=whole).logits[0, len(prompt) + len(row.source) - 1 :]


def loss_of(backbone, adapter, prompt, row, noise, config):
    """Sum over the answer's tokens (objective vocabulary), or of choosing among the words, as soft labels say."""
    share = config.label_smoothing
    if config.objective == "vocabulary":
        candidate = row.candidates[row.gold]
        found = logits_of(backbone, adapter, prompt, row, noise, candidate).log_softmax(-1)
        right = found[torch.arange(len(candidate)), torch.tensor(candidate)]
        return -((1 - share) * right + share * found.mean(-1)).sum()
    scores = []
    for candidate in row.candidates:
        found = logits_of(backbone, adapter, prompt, row, noise, candidate).log_softmax(-1)
        scores.append(found[torch.arange(len(candidate)), torch.tensor(candidate)].sum())
    found = torch.stack(scores).log_softmax(0)
    right = found @ torch.tensor(row.soft) if row.soft else found[row.gold]
    return -((1 - share) * right + share * found.mean())


def by_hand(backbone, trial):
    """Losses, and the tensors after each step."""
    config = trial.config
    adapter = Adapter(trial.start.prompt, trial.start.a, trial.start.b)
    rates = (config.lr_prompt, config.lr_low_rank, config.lr_low_rank)
    parts = [getattr(adapter, name) for name in NAMES]
    optimizer = torch.optim.AdamW([{"params": [part]} for part in parts], weight_decay=config.weight_decay)
    losses, path = [], []
    for step in range(config.steps):
        prompt = adapter.prompt * dropped(adapter.prompt.shape, config.dropout, trial.seed, step)
        total, order = 0, data_order(len(trial.rows), config.batch_size, step, trial.seed)
        chosen = [trial.rows[i] for i in order]
        tokens = sum(len(row.candidates[row.gold]) for row in chosen)
        for place, row in enumerate(chosen):
            noise = torch.zeros(len(row.source), backbone.d)
            if config.noise:
                noise = Noise(config.noise, trial.seed, step, place).drawn(len(row.source), backbone.d)
            loss = loss_of(backbone, adapter, prompt, row, noise, config)
            total = total + loss / (tokens if config.objective == "vocabulary" else len(chosen))
        optimizer.zero_grad()
        total.backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(step, config.steps, config.warmup, config.schedule)
        optimizer.step()
        losses.append(float(total.detach()))
        path.append([part.detach().clone() for part in parts])
    return losses, path


@pytest.mark.parametrize("objective", ["words", "vocabulary"])
@pytest.mark.parametrize("budget", [14, 1000])
def test_a_trial_is_the_written_out_loop(tiny, objective, budget):
    """All at once; beside it in the stack a trial of rows with fewer words, smoothed otherwise, and nothing else."""
    config = TrainConfig(
        steps=5, batch_size=3, lr_prompt=0.05, lr_low_rank=0.02, clip=None, weight_decay=0.1, objective=objective, **ALL
    )
    trial = Trial("x", start_of(tiny), config, rows_of(tiny), (), seed=11)
    other = TrainConfig(steps=3, batch_size=2, clip=None, objective=objective, label_smoothing=0.5)
    beside = Trial("two", start_of(tiny, 1), other, rows_of(tiny, WORDS[:2]), (), seed=12)
    results = train([beside, trial], tiny, EngineOptions(token_budget=budget))
    losses, path = by_hand(tiny, trial)
    assert [loss for _, loss in results["x"].state.loss_curve] == pytest.approx(losses, abs=1e-4)
    assert [loss for _, loss in results["two"].state.loss_curve] == pytest.approx(by_hand(tiny, beside)[0], abs=1e-4)
    result = results["x"]
    counts = [config.average ** (len(path) - 1 - i) for i in range(len(path))]
    for at, name in enumerate(NAMES):
        mean = sum(count * parts[at] for count, parts in zip(counts, path, strict=True)) / sum(counts)
        torch.testing.assert_close(getattr(result.adapter, name).detach(), mean, atol=1e-4, rtol=0)
        assert (mean - path[-1][at]).abs().max() > 1e-3  # else averaging is not seen


@pytest.mark.parametrize("average", [0.0, 1.0])
def test_the_ends_of_averaging_are_the_last_step_and_the_plain_mean(tiny_llama, average):
    config = TrainConfig(steps=4, batch_size=3, lr_prompt=0.05, lr_low_rank=0.02, clip=None, average=average)
    trial = Trial("x", start_of(tiny_llama), config, rows_of(tiny_llama), (), seed=2)
    found = train([trial], tiny_llama)["x"].adapter
    _, path = by_hand(tiny_llama, trial)
    for at, name in enumerate(NAMES):
        wanted = torch.stack([parts[at] for parts in path]).mean(0) if average else path[-1][at]
        torch.testing.assert_close(getattr(found, name).detach(), wanted, atol=1e-4, rtol=0)


def test_what_is_validated_is_what_is_kept(tiny_llama):
    """The mean, not the last step: scoring the result gives the loss by which its step was chosen."""
    from dept.adapters.stack import Tensors
    from dept.engine.evaluate import score_rows, summarise

    rows = rows_of(tiny_llama)
    config = TrainConfig(steps=6, batch_size=3, lr_prompt=0.05, eval_every=2, average=0.9)
    result = train([Trial("x", start_of(tiny_llama), config, rows, rows)], tiny_llama)["x"]
    found = score_rows(tiny_llama, Tensors.of([result.adapter], tiny_llama.device), [(0, row) for row in rows])
    assert result.state.best_step > 0
    assert summarise(found, rows)["loss"] == pytest.approx(result.state.best["loss"], abs=1e-5)


def test_random_numbers_hang_on_seed_step_and_row_alone():
    mask = dropped((40, 50), 0.25, seed=3, step=7)
    assert mask.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert torch.equal(mask, dropped((40, 50), 0.25, seed=3, step=7))
    noise = Noise(6.0, 3, 7, 1).drawn(9, 64)
    bound = 6 / (9 * 64) ** 0.5
    assert 0.9 * bound < noise.abs().max() <= bound
    assert abs(float(noise.mean())) < 0.1 * bound
    assert torch.equal(noise, Noise(6.0, 3, 7, 1).drawn(9, 64))
    for seed, step, place in ((4, 7, 1), (3, 8, 1), (3, 7, 2)):
        assert not torch.equal(noise, Noise(6.0, seed, step, place).drawn(9, 64))
        if place == 1:
            assert not torch.equal(mask, dropped((40, 50), 0.25, seed, step))


@pytest.mark.parametrize(("patience", "end"), [(1, 3), (3, 3), (4, 6), (6, 6), (7, 9), (None, 12)])
def test_patience_counts_steps_since_the_lowest_loss(tiny_llama, monkeypatch, patience, end):
    """Validations at 0, 3, 6, 9, 12, the lowest at the start; seen at the next validation, never before."""
    losses = iter([1.0, 2.0, 3.0, 1.5, 1.2])
    monkeypatch.setattr("dept.engine.state.summarise", lambda *_: {"score": 50.0, "loss": next(losses)})
    rows = rows_of(tiny_llama)
    config = TrainConfig(steps=12, batch_size=2, eval_every=3, patience=patience)
    state = train([Trial("x", start_of(tiny_llama), config, rows, rows[:1])], tiny_llama)["x"].state
    assert (state.step, state.best_step) == (end, 0)


def test_without_validation_rows_patience_ends_nothing():
    state, config = State(), TrainConfig(steps=9, eval_every=2, patience=2)
    for step in range(9):
        if state.is_due(config):
            assert state.validated([], [])
        assert not state.is_done(config)
        state.stepped(1.0, 1.0, 50)
        assert state.step == step + 1
    assert state.is_done(config)


@pytest.mark.parametrize("version", [None, 4])
def test_a_spec_from_before_steps_of_patience_means_the_same(version):
    body = make_spec().model_dump(mode="json") | {"schema_version": version}
    new = ("average", "dropout", "noise", "label_smoothing", "objective", "schedule", "lr_head")
    body["training"] = {k: v for k, v in body["training"].items() if k not in new} | {"patience": 3, "eval_every": 5}
    if version is None:
        del body["schema_version"]
    read = TrialSpec.model_validate(body)
    assert read.training.patience == 20  # a fourth validation without a lower loss ended it
    assert (read.training.objective, read.training.schedule, read.training.average) == ("vocabulary", "linear", 0)
    again = TrialSpec.model_validate(read.model_dump(mode="json"))
    assert again.training == read.training
    today = make_spec(training=TrainConfig(patience=7, objective="words", schedule="cosine"))
    assert TrialSpec.model_validate(today.model_dump(mode="json")) == today
