"""LoRA and full fine-tuning in dept's harness, against loops written by hand on plain transformers models."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dept.adapters.optimizer import rate_factor
from dept.backbones.backbone import Backbone
from dept.baselines import train as baselines
from dept.baselines.plain import plain_copy
from dept.baselines.train import train_baseline
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, TrainConfig
from dept.engine.evaluate import summarise
from dept.engine.train import data_order

pytest.importorskip("peft", reason="peft is an optional extra: pip install 'peft>=0.17'")

WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]
PLAIN = {"objective": "vocabulary", "schedule": "linear", "average": 0.0}  # the rest: test_baseline_recipe.py
CONFIG = TrainConfig(
    steps=6, batch_size=3, lr_prompt=0.02, warmup=0.2, weight_decay=0.5, clip=0.5, eval_every=3, **PLAIN
)
UNTRAINED = CONFIG.model_copy(update={"steps": 0})


def rows_of(backbone, layout="adjacent"):
    return encode(backbone.tokens, TEXTS, WORDS, [1, 0, 0, 2, 0], AdapterConfig(s=24, layout=layout))


def plain(backbone):
    auto = AutoModelForSeq2SeqLM if backbone.family == "seq2seq" else AutoModelForCausalLM
    return auto.from_pretrained(backbone.folder, dtype=backbone.dtype).eval()


def log_prob(model, source, candidate):
    """One text, one label word, no padding: the library's own forward pass."""
    target = torch.tensor(candidate)
    if model.config.is_encoder_decoder:
        logits = model(input_ids=torch.tensor([source]), labels=target[None]).logits[0]
    else:
        logits = model(input_ids=torch.tensor([source + candidate])).logits[0, len(source) - 1 : -1]
    return logits.float().log_softmax(-1)[torch.arange(len(candidate)), target].sum()


@torch.no_grad()
def scores_by_hand(model, row):
    return [float(log_prob(model, row.source, candidate)) for candidate in row.candidates]


def by_hand(model, rows, config, seed, trained):
    """Losses (nats per label token) of `config.steps` steps, row by row."""
    optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay)
    losses = []
    for step in range(config.steps):
        chosen = [rows[i].only_gold() for i in data_order(len(rows), config.batch_size, step, seed)]
        optimizer.zero_grad()
        labels = sum(len(row.candidates[0]) for row in chosen)
        loss = -sum(log_prob(model, row.source, row.candidates[0]) for row in chosen) / labels
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.param_groups[0]["lr"] = config.lr_prompt * rate_factor(step, config.steps, config.warmup)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def losses_of(baseline):
    return [loss for _, loss in baseline.state.loss_curve]


def bits(backbone):
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}


def assert_untouched(backbone, before):
    after = backbone.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("layout", ["adjacent", "paper"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_untrained_scores_are_those_of_the_plain_model(tiny, method, layout):
    rows = rows_of(tiny, layout)
    model = plain(tiny)
    seen = []
    with train_baseline(method, tiny, rows, rows, UNTRAINED, seed=0) as baseline:
        scores = baseline.score(rows, seen.append)
    assert sum(seen) == sum(len(row.source) if tiny.family == "seq2seq" else row.length for row in rows)
    for row, found in zip(rows, scores, strict=True):
        assert found == pytest.approx(scores_by_hand(model, row), abs=1e-4)


@pytest.mark.parametrize(("rank", "budget"), [(1, None), (3, 12)])
def test_lora_is_what_peft_does(tiny, rank, budget, monkeypatch):
    """The losses, and the weights after the last step, with micro-batches of any size."""
    from peft import LoraConfig, get_peft_model

    if budget is not None:
        monkeypatch.setattr(baselines, "token_budget", lambda _: budget)
    model = plain(tiny)
    torch.manual_seed(7)
    fan = tiny.config.model_type == "gpt2"
    wrapped = get_peft_model(
        model, LoraConfig("CAUSAL_LM", r=rank, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=fan)
    ).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    rows, before = rows_of(tiny), bits(tiny)
    wanted = by_hand(model, rows, CONFIG, 7, trained)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    baseline = train_baseline("lora", tiny, rows, (), CONFIG, seed=7, rank=rank)
    assert torch.equal(state, torch.get_rng_state())
    assert baseline.trainable == wrapped.get_nb_trainable_parameters()[0]
    assert losses_of(baseline) == pytest.approx(wanted, abs=1e-4)
    assert losses_of(baseline)[-1] != pytest.approx(losses_of(train_baseline("lora", tiny, rows, (), CONFIG, 8))[-1])
    baseline = train_baseline("lora", tiny, rows, (), CONFIG, seed=7, rank=rank)
    scores = baseline.score(rows)
    for row, found in zip(rows, scores, strict=True):
        assert found == pytest.approx(scores_by_hand(model, row), abs=2e-3)
    assert_untouched(tiny, before)


def test_full_trains_every_weight_and_the_next_trial_starts_afresh(tiny):
    rows, before, model = rows_of(tiny), bits(tiny), plain(tiny)
    config = CONFIG.model_copy(update={"lr_prompt": 1e-3})
    untouched = train_baseline("lora", tiny, rows, rows, config, seed=1)
    untouched_losses, untouched_scores = losses_of(untouched), untouched.score(rows)
    copy = plain_copy(tiny)
    wanted = by_hand(model, rows, config, 1, list(model.parameters()))
    baseline = train_baseline("full", tiny, rows, (), config, seed=1)
    assert losses_of(baseline) == pytest.approx(wanted, abs=1e-4)
    assert baseline.trainable == sum(p.numel() for p in model.parameters())
    first = losses_of(baseline), baseline.score(rows)
    for row, found in zip(rows, first[1], strict=True):
        assert found == pytest.approx(scores_by_hand(model, row), abs=1e-3)
    again = train_baseline("full", tiny, rows, (), config, seed=1)
    assert (losses_of(again), again.score(rows)) == first
    lora = train_baseline("lora", tiny, rows, rows, config, seed=1)  # after full fine-tuning as before it, bit for bit
    assert (losses_of(lora), lora.score(rows)) == (untouched_losses, untouched_scores)
    lora.close()
    assert plain_copy(tiny) is copy
    assert all(torch.equal(p, before[name]) for name, p in copy.bare.model.state_dict().items())
    assert_untouched(tiny, before)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_best_step_of_validation_is_kept(tiny_llama, method):
    """A rate that is too high: validation falls, patience runs out, and the scores are those of the best step."""
    rows = rows_of(tiny_llama)
    held_out = rows[3:4]  # the only row of the third class, which the training rows never show
    config = TrainConfig(steps=40, batch_size=2, lr_prompt=0.05, warmup=0, eval_every=2, patience=8)
    seen = []
    baseline = train_baseline(method, tiny_llama, rows[:3], held_out, config, seed=0, on_tokens=seen.append)
    state = baseline.state
    assert state.step == state.best_step + config.patience < config.steps
    assert [step for step, _ in state.validation_curve] == list(range(0, state.step + 1, 2))
    assert summarise(baseline.score(held_out), held_out) == pytest.approx(state.best)
    validated = len(state.validation_curve) * sum(row.length for row in held_out)
    assert sum(seen) == state.tokens + validated
    assert state.padded >= state.tokens > 0
    assert state.seconds > 0


def test_the_step_of_the_lowest_loss_is_kept(tiny_llama, monkeypatch):
    """As for adapters: of equals the better score; a loss that is not finite is the worst."""
    script = [(50.0, 1.0), (90.0, 1.1), (40.0, 0.8), (60.0, 0.8), (99.0, float("nan")), (99.0, 0.9)]
    validations = iter({"score": score, "loss": loss} for score, loss in script)
    monkeypatch.setattr("dept.engine.state.summarise", lambda *_: next(validations))
    rows = rows_of(tiny_llama)
    config = TrainConfig(steps=10, batch_size=2, lr_prompt=1e-3, eval_every=2, patience=9)
    state = train_baseline("lora", tiny_llama, rows, rows, config, seed=0).state
    assert (state.best_step, state.best) == (6, {"score": 60.0, "loss": 0.8})


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("rate", "bound", "reason"), [(1e38, 50, "not finite"), (0.1, 0.5, "above max_loss")])
def test_a_diverging_baseline_fails_and_the_next_one_does_not(tiny_llama, method, rate, bound, reason):
    rows, before = rows_of(tiny_llama), bits(tiny_llama)
    calm = losses_of(train_baseline(method, tiny_llama, rows, (), CONFIG, seed=2))
    wild = TrainConfig(steps=30, lr_prompt=rate, max_loss=bound, clip=None)
    baseline = train_baseline(method, tiny_llama, rows, rows, wild, seed=2)
    assert reason in baseline.state.failure
    assert baseline.state.best_step == 0  # and its scores are those of that step
    assert summarise(baseline.score(rows), rows) == pytest.approx(baseline.state.best)
    assert losses_of(train_baseline(method, tiny_llama, rows, (), CONFIG, seed=2)) == calm
    assert_untouched(tiny_llama, before)


def test_bfloat16_backbones_are_trained_in_float32(tiny_folders):
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), dtype="bfloat16", device="cpu")
    rows, before = rows_of(backbone), bits(backbone)
    for method in ("full", "lora"):
        baseline = train_baseline(method, backbone, rows, (), CONFIG.model_copy(update={"lr_prompt": 1e-4}), seed=0)
        assert {p.dtype for p in plain_copy(backbone).bare.model.parameters() if p.requires_grad} == {torch.float32}
        assert all(torch.isfinite(torch.tensor(baseline.score(rows))).flatten())
        baseline.close()
        assert all(torch.equal(p, before[n]) for n, p in plain_copy(backbone).bare.model.state_dict().items())
    assert_untouched(backbone, before)


def test_memory_that_runs_out_halves_the_micro_batches(tiny_llama, monkeypatch):
    rows = rows_of(tiny_llama)
    calm = losses_of(train_baseline("lora", tiny_llama, rows, rows, CONFIG, seed=2))
    real = baselines.log_probs

    def tight(bare, batch, *rest):
        if len(batch.candidate_row) > (2 if torch.is_grad_enabled() else 6):
            raise torch.OutOfMemoryError("out of memory")
        return real(bare, batch, *rest)

    monkeypatch.setattr(baselines, "log_probs", tight)
    assert losses_of(train_baseline("lora", tiny_llama, rows, rows, CONFIG, seed=2)) == pytest.approx(calm, abs=1e-4)
