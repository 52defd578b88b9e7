"""Baselines learn by the recipe of adapters: objective, smoothing, noise and averaging, against a written-out loop."""

import pytest
import torch

from dept.adapters.optimizer import rate_factor
from dept.baselines.train import train_baseline
from dept.config import TrainConfig
from dept.engine.disturb import Noise
from dept.engine.evaluate import summarise
from dept.engine.train import data_order
from tests.dept.test_baselines import bits, losses_of, plain, rows_of

ALL = {"average": 0.7, "noise": 9.0, "label_smoothing": 0.2, "schedule": "cosine", "dropout": 0.5}


def log_probs(model, row, candidate, noise):
    """Log-probabilities [tokens, vocabulary] where the tokens of one word are told, by the library's own pass."""
    inner = () if model.config.is_encoder_decoder else candidate[:-1]
    embedded = model.get_input_embeddings()(torch.tensor([row.source + inner]))
    embedded = embedded + torch.cat([noise, torch.zeros(len(inner), noise.shape[1])])
    if model.config.is_encoder_decoder:
        return model(inputs_embeds=embedded, labels=torch.tensor([candidate])).logits[0].log_softmax(-1)
    return model(inputs_embeds=embedded).logits[0, len(row.source) - 1 :].log_softmax(-1)


def by_hand(model, d, rows, config, seed):
    """Losses of all steps; the model then holds the mean of its weights over them."""
    trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay)
    losses, path, share = [], [], config.label_smoothing
    for step in range(config.steps):
        chosen = [rows[i] for i in data_order(len(rows), config.batch_size, step, seed)]
        tokens, total = sum(len(row.candidates[row.gold]) for row in chosen), 0
        for place, row in enumerate(chosen):
            noise = Noise(config.noise, seed, step, place).drawn(len(row.source), d)
            found = [log_probs(model, row, candidate, noise) for candidate in row.candidates]
            told = [f[torch.arange(len(c)), torch.tensor(c)] for f, c in zip(found, row.candidates, strict=True)]
            if config.objective == "words":
                words = torch.stack([part.sum() for part in told]).log_softmax(0)
                total = total - ((1 - share) * words[row.gold] + share * words.mean()) / len(chosen)
            else:
                gold = (1 - share) * told[row.gold] + share * found[row.gold].mean(-1)
                total = total - gold.sum() / tokens
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.param_groups[0]["lr"] = config.lr_prompt * rate_factor(
            step, config.steps, config.warmup, config.schedule
        )
        optimizer.step()
        losses.append(float(total.detach()))
        path.append([part.detach().clone() for part in trained])
    counts = [config.average ** (len(path) - 1 - i) for i in range(len(path))]
    with torch.no_grad():
        for at, part in enumerate(trained):
            part.copy_(sum(count * parts[at] for count, parts in zip(counts, path, strict=True)) / sum(counts))
    return losses


@pytest.mark.parametrize("objective", ["words", "vocabulary"])
def test_full_fine_tuning_is_the_written_out_loop(tiny, objective):
    config = TrainConfig(steps=4, batch_size=3, lr_prompt=2e-3, weight_decay=0.1, objective=objective, **ALL)
    rows, before, model = rows_of(tiny), bits(tiny), plain(tiny)
    wanted = by_hand(model, tiny.d, rows, config, 5)
    with train_baseline("full", tiny, rows, (), config, seed=5) as baseline:
        assert losses_of(baseline) == pytest.approx(wanted, abs=1e-4)
        scores = baseline.score(rows)
    none = torch.zeros(0, tiny.d)
    for row, found in zip(rows, scores, strict=True):
        for candidate, score in zip(row.candidates, found, strict=True):
            noise = none.new_zeros(len(row.source), tiny.d)
            by_token = log_probs(model, row, candidate, noise)
            told = by_token[torch.arange(len(candidate)), torch.tensor(candidate)]
            assert score == pytest.approx(float(told.sum().detach()), abs=1e-3)
    after = tiny.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_mean_is_validated_and_kept_and_does_not_lead_the_path(tiny_llama, method):
    """Training goes on from the last step's weights: its losses are those of a run without averaging."""
    rows = rows_of(tiny_llama)
    config = TrainConfig(steps=6, batch_size=3, lr_prompt=0.02, eval_every=2, objective="words")
    if method == "lora":
        pytest.importorskip("peft", reason="peft is an optional extra: pip install 'peft>=0.17'")
    bare = losses_of(train_baseline(method, tiny_llama, rows, rows, config, seed=1))
    averaged = train_baseline(method, tiny_llama, rows, rows, config.model_copy(update={"average": 0.9}), seed=1)
    assert losses_of(averaged) == bare
    assert averaged.state.best_step > 0
    assert summarise(averaged.score(rows), rows)["loss"] == pytest.approx(averaged.state.best["loss"], abs=1e-6)
