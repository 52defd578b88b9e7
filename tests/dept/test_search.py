"""The halving rule against a written-out example; a search against single trainings; a killed one decides the same."""

import math
from dataclasses import replace

import pytest

from dept.adapters.initialise import from_text
from dept.adapters.stack import Tensors
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import raw_scores
from dept.engine.halving import Found, Halving, mean
from dept.engine.search import search
from dept.engine.train import Loop, Trial, train

WORDS = ("negative", "positive")
TEXTS = [
    "the film was good",
    "bad plot and awful acting",
    "it was not happy",
    "great",
    "slow service",
    "very good food",
]
LABELS = [1, 0, 0, 1, 0, 1]
ROOMS = (AdapterConfig(m=4, r=2, s=24), AdapterConfig(m=6, r=1, s=24))  # two shapes: two stacks


def note(halving, step, losses):
    for candidate, loss in losses.items():
        halving.note(candidate, step, {"loss": loss, "score": 50.0})


def test_the_rule_written_out():
    """Of seven at step 2 ceil(7 / 3) = 3 go on; two that come later meet all nine; of three at step 4 one goes on."""
    halving = Halving(9, (2, 4), 3)
    note(halving, 0, dict.fromkeys(range(7), 1.0))
    assert halving.leaving() == []  # no rung
    note(halving, 2, {0: 0.9, 1: 0.5, 2: 0.7, 3: 0.5, 4: 0.8, 5: math.inf, 6: 0.6})
    assert halving.leaving() == [0, 2, 4, 5]
    assert halving.leaving() == []  # asked once
    note(halving, 2, {7: 0.55, 8: 0.4})  # of nine the best three are 0.4, 0.5, 0.5
    assert halving.leaving() == [7]
    note(halving, 4, {1: 0.3, 3: 0.2, 6: 0.1})
    assert halving.leaving() == [1, 3]
    note(halving, 4, {8: 0.05})  # ceil(4 / 3) = 2 of four
    assert halving.leaving() == []
    halving.fail(8, "diverged")
    halving.end(6, "all steps")
    assert [tried.left for tried in halving.tried] == [
        *("rung 2", "rung 4", "rung 2", "rung 4", "rung 2", "rung 2", "all steps", "rung 2", "diverged")
    ]
    assert Found(halving.tried).winner == 6  # 8 was better, but diverged


def test_one_that_left_early_can_win():
    halving = Halving(2, (2,), 2)
    note(halving, 0, {0: 0.1, 1: 0.9})
    note(halving, 2, {0: 0.8, 1: 0.5})
    assert halving.leaving() == [0]
    found = Found(halving.tried)
    assert found.winner == 0
    assert found.tried[0].best == (0, {"loss": 0.1, "score": 50.0})
    found.raws[1] = ([[-1.0, -2.0]], None)
    assert Found.of({**found.told(), "raws": {"1": found.raws[1]}}) == found


def test_folds_count_by_their_rows():
    assert mean([{"loss": 1.0, "score": 0.0}, {"loss": 4.0, "score": 90.0}], [2, 1]) == {"loss": 2.0, "score": 30.0}


def candidates_of(backbone, steps=8, rates=(0.3, 0.05, 0.01, 0.0)):
    """Four candidates of two shapes and two folds."""
    made = []
    for number, rate in enumerate(rates):
        shape = ROOMS[number % 2]
        rows = encode(backbone.tokens, TEXTS, WORDS, LABELS, shape)
        start = from_text(backbone, shape, "good or bad?", 0)
        config = TrainConfig(
            steps=steps, batch_size=2, lr_prompt=rate, lr_low_rank=rate / 10, eval_every=2, patience=2, warmup=0.0
        )
        halves = ((rows[:3], rows[3:]), (rows[3:], rows[:3]))
        made.append([Trial(f"{number}/{f}", start, config, a, b, seed=3) for f, (a, b) in enumerate(halves)])
    return made


def test_a_search_is_the_single_trainings_cut_short(tiny):
    candidates = candidates_of(tiny)
    found = search("mine", candidates, tiny, rungs=(2, 4), eta=2)
    alone = train([t for trials in candidates_of(tiny) for t in patient(trials)], tiny)
    for number, tried in enumerate(found.tried):
        states = [alone[f"{number}/{fold}"].state for fold in (0, 1)]
        whole = {
            step: (first + second) / 2
            for (step, first), (_, second) in zip(*(s.validation_loss_curve for s in states), strict=True)
        }
        assert dict(tried.losses) == pytest.approx({s: whole[s] for s, _ in tried.losses}, abs=1e-4)
    ends = sorted(tried.losses[-1][0] for tried in found.tried)
    assert ends == [2, 2, 4, 8]
    assert sorted(tried.left for tried in found.tried) == ["all steps", "rung 2", "rung 2", "rung 4"]
    assert found.steps == 2 * sum(ends)
    assert found.tokens > 0
    assert not found.over
    losses = [tried.best[1]["loss"] for tried in found.tried]
    assert found.winner == losses.index(min(losses))


def patient(trials):
    for trial in trials:
        config = trial.config.model_copy(update={"patience": 100})
        yield Trial(trial.key, trial.start, config, trial.rows, trial.validation, trial.seed)


def test_its_raw_scores_are_those_of_the_adapters_it_had(tiny):
    """Each row as the fold that has not learned from it scores it at the candidate's best step, in the rows' order."""
    candidates = candidates_of(tiny)
    found = search("mine", candidates, tiny, rungs=(2, 4), eta=2)
    for number, tried in enumerate(found.tried):
        step, words = tried.best[0], []
        for trial in candidates[number]:
            config = trial.config.model_copy(update={"last": step})
            adapter = train([replace(trial, config=config, validation=())], tiny)[trial.key].adapter
            items = [(0, row) for row in trial.validation]
            words += raw_scores(tiny, Tensors.of([adapter], "cpu"), items).words
        for mine, wanted in zip(found.raws[number][0], words, strict=True):
            assert mine == pytest.approx(wanted, abs=1e-4)


def test_waiting_candidates_take_free_places(tiny_llama):
    found = search("mine", candidates_of(tiny_llama), tiny_llama, EngineOptions(adapters_at_once=3), rungs=(2,), eta=4)
    assert all(tried.left and tried.losses for tried in found.tried)
    # There is room for one candidate in each of two stacks: the better of the first two is the best of those there.
    first = [dict(tried.losses)[2] for tried in found.tried[:2]]
    assert [tried.left for tried in found.tried[:2]] == ["all steps" if x == min(first) else "rung 2" for x in first]


class KilledError(Exception):
    pass


@pytest.fixture
def die(monkeypatch):
    """Count steps of stacks; at the given one the process "dies"."""
    made, at, step = [0], [0], Loop.step

    def counted(loop):
        made[0] += 1
        if made[0] == at[0]:
            raise KilledError
        step(loop)

    monkeypatch.setattr(Loop, "step", counted)

    def begin(when=0):
        made[0], at[0] = 0, when
        return made

    return begin


@pytest.mark.parametrize("when", [3, 7, 11])
def test_a_killed_search_comes_to_the_same_decisions(tiny_llama, tmp_path, die, when):
    options = EngineOptions(checkpoint_folder=tmp_path, checkpoint_seconds=0.0)
    whole = search("mine", candidates_of(tiny_llama), tiny_llama, rungs=(2, 4), eta=2)
    die(when)
    with pytest.raises(KilledError):
        search("mine", candidates_of(tiny_llama), tiny_llama, options, rungs=(2, 4), eta=2)
    made = die()
    again = search("mine", candidates_of(tiny_llama), tiny_llama, options, rungs=(2, 4), eta=2)
    assert made[0] < 12  # it went on: the whole search makes 4 + 8 steps in two stacks
    assert [(t.losses, t.scores, t.left) for t in again.tried] == [(t.losses, t.scores, t.left) for t in whole.tried]
    assert (again.steps, again.winner, again.raws) == (whole.steps, whole.winner, whole.raws)
    assert not list(tmp_path.iterdir())


def test_another_search_takes_no_part_of_a_checkpoint(tiny_llama, tmp_path, die):
    options = EngineOptions(checkpoint_folder=tmp_path, checkpoint_seconds=0.0)
    die(7)
    with pytest.raises(KilledError):
        search("mine", candidates_of(tiny_llama), tiny_llama, options, rungs=(2, 4), eta=2)
    rates = (0.2, 0.1, 0.0, 0.0)
    die()
    one, other = (
        search("mine", candidates_of(tiny_llama, rates=rates), tiny_llama, given, rungs=(2, 4), eta=2)
        for given in (options, None)
    )
    assert [tried.losses for tried in one.tried] == [tried.losses for tried in other.tried]


def test_the_bound_in_seconds_is_told(tiny_llama):
    found = search("mine", candidates_of(tiny_llama), tiny_llama, rungs=(2, 4), eta=2, seconds=1e-9)
    assert found.over
    assert found.steps == 0
    assert found.winner is not None
    assert {tried.left for tried in found.tried} == {"no time left"}


def test_a_candidate_that_diverges_cannot_win(tiny_llama):
    candidates = candidates_of(tiny_llama)
    low = TrainConfig(**{**candidates[0][1].config.model_dump(), "max_loss": 1e-6})
    first = candidates[0][1]
    candidates[0][1] = Trial(first.key, first.start, low, first.rows, first.validation, first.seed)
    found = search("mine", candidates, tiny_llama, rungs=(2, 4), eta=2)
    assert found.tried[0].failed
    assert "max_loss" in found.tried[0].left
    assert found.winner != 0
