"""Soft labels: steps are those of a plain, written-out loop; one-hot ones are the objective `words`."""

import math
from dataclasses import replace

import pytest
import torch

from dept.adapters.initialise import with_head
from dept.adapters.stack import NAMES, Tensors
from dept.baselines.probe import train_head
from dept.config import EngineOptions, TrainConfig
from dept.distributed import job
from dept.engine.distil import taught
from dept.engine.evaluate import raw_scores
from dept.engine.features import features
from dept.engine.train import Trial, train
from tests.dept.test_recipe import ALL, CONFIG, WORDS, by_hand, rows_of, start_of

ANSWERS = [[-1.0, -2.0, 0.5], [3.0, 2.0, 2.0], [-9.0, -8.5, -8.0], [0.0, 0.0, 0.0], [-0.1, -4.0, -2.0]]


def soft_rows(backbone):
    return taught(rows_of(backbone), ANSWERS)


def test_answers_become_probabilities(tiny_llama):
    for row, line in zip(soft_rows(tiny_llama), ANSWERS, strict=True):
        assert row.soft == pytest.approx(torch.tensor(line).softmax(0).tolist())
        assert row.only_gold().soft == ()
    assert [replace(row, soft=()) for row in soft_rows(tiny_llama)] == rows_of(tiny_llama)


@pytest.mark.parametrize("budget", [14, 1000])
def test_a_trial_of_soft_labels_is_the_written_out_loop(tiny, budget):
    """With all that is done against overfitting; beside it in the stack a trial of hard labels and fewer words."""
    about = {"batch_size": 3, "lr_prompt": 0.05, "lr_low_rank": 0.02, "clip": None}
    trial = Trial("soft", start_of(tiny), TrainConfig(steps=5, **about, **ALL), soft_rows(tiny), (), seed=11)
    hard = TrainConfig(steps=3, **about, average=0.0)
    beside = Trial("hard", start_of(tiny, 1), hard, rows_of(tiny, WORDS[:2]), (), seed=12)
    results = train([beside, trial], tiny, EngineOptions(token_budget=budget))
    for one in (trial, beside):
        losses, path = by_hand(tiny, one)
        result = results[one.key]
        assert [loss for _, loss in result.state.loss_curve] == pytest.approx(losses, abs=1e-4)
        counts = [one.config.average ** (len(path) - 1 - i) for i in range(len(path))]
        for at, name in enumerate(NAMES):
            mean = sum(count * parts[at] for count, parts in zip(counts, path, strict=True)) / sum(counts)
            torch.testing.assert_close(getattr(result.adapter, name).detach(), mean, atol=1e-4, rtol=0)
    gold, _ = by_hand(tiny, replace(trial, rows=rows_of(tiny)))
    assert abs(gold[0] - by_hand(tiny, trial)[0][0]) > 0.01  # else soft labels are not seen


def test_a_teacher_that_is_sure_of_the_labels_is_the_objective_words(tiny):
    rows = rows_of(tiny)
    sure = taught(rows, [[0.0 if i == row.gold else -1000.0 for i in range(len(WORDS))] for row in rows])
    config = TrainConfig(steps=4, batch_size=3, lr_prompt=0.05, lr_low_rank=0.02, average=0.0)
    found, wanted = (train([Trial("x", start_of(tiny), config, part, ())], tiny)["x"] for part in (sure, rows))
    losses = [[loss for _, loss in one.state.loss_curve] for one in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name in NAMES:
        torch.testing.assert_close(getattr(found.adapter, name), getattr(wanted.adapter, name), atol=1e-6, rtol=0)


def test_words_and_head_both_follow_the_teacher(tiny_llama):
    """The first loss, from the scores of the start: cross-entropy of either with the soft labels, added up."""
    rows, shape = soft_rows(tiny_llama), CONFIG.model_copy(update={"answers": "both", "layers": (1.0,)})
    start = start_of(tiny_llama)
    read = features(tiny_llama, [(0, row) for row in rows], shape.layers, Tensors.of([start], tiny_llama.device))
    start = with_head(start, train_head(read, rows, read[:0], ()), shape)
    raw = raw_scores(tiny_llama, Tensors.of([start], tiny_llama.device), [(0, row) for row in rows])
    soft = torch.tensor([row.soft for row in rows])
    wanted = sum(-(soft * torch.tensor(part).log_softmax(1)).sum(1).mean() for part in raw)
    trial = Trial("x", start, TrainConfig(steps=1, batch_size=len(rows)), rows, ())
    ((_, loss),) = train([trial], tiny_llama)["x"].state.loss_curve
    assert loss == pytest.approx(float(wanted), abs=1e-4)


def test_soft_labels_reach_ranks_and_checkpoints(tiny_llama, tmp_path):
    trial = Trial("x", start_of(tiny_llama), TrainConfig(steps=1), soft_rows(tiny_llama), rows_of(tiny_llama))
    job.write_trials(tmp_path, [trial], EngineOptions())
    _, (again,) = job.read_trials(tmp_path)
    assert (again.rows, again.validation) == (trial.rows, trial.validation)
    hard = replace(trial, rows=rows_of(tiny_llama))
    assert trial.identity("", {}) != hard.identity("", {})
    assert math.fsum(trial.rows[0].soft) == pytest.approx(1)
