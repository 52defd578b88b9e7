"""Who answers for a task, and how, from scores of rows that were held out; written out by hand."""

import math

import pytest

from dept.engine.evaluate import Raw
from dept.engine.readout import TEMPERATURES
from dept.engine.together import decide
from dept.readout import Readout, mean_answers

GOLD = [0, 1] * 8


def raw(*sure, gold=GOLD):
    """Log-probabilities of two words: of each row that of its right one, in turn."""
    lines = []
    for place, label in enumerate(gold):
        right = sure[place % len(sure)]
        pair = [math.log(right), math.log(1 - right)]
        lines.append(pair if label == 0 else pair[::-1])
    return Raw(lines)


def test_alone_and_plain_the_lowest_loss_wins():
    found = decide({0: raw(0.6), 3: raw(0.9), 5: raw(0.8)}, GOLD, "none", {0: False, 3: False, 5: False})
    assert found.members == (3,)
    assert found.loss == pytest.approx(-math.log(0.9))
    assert found.score == 100
    assert found.readouts[0].plain


def test_candidates_are_compared_by_what_a_readout_makes_of_them():
    """Words that lean to one label for every row tell the rows apart as well as any, once that is taken from them."""
    leaning = Raw([[-0.1, -3.0] if label == 0 else [-0.3, -2.0] for label in GOLD])
    other = raw(0.9, 0.9, 0.35, 0.9)
    told = decide({0: leaning, 1: other}, GOLD, "choose", {0: False, 1: False})
    assert told.members == (0,)
    assert told.readouts[0].calibration == "batch"
    assert told.score == 100
    assert decide({0: leaning, 1: other}, GOLD, "none", {0: False, 1: False}).members == (1,)


def test_several_answer_together_and_mend_each_other():
    """Each is sure and wrong on rows of its own; the mean of the log-probabilities is right on all."""
    one, other, third = raw(0.99, 0.99, 0.3, 0.99), raw(0.99, 0.3, 0.99, 0.99), raw(0.3, 0.99, 0.99, 0.99)
    found = decide({0: one, 1: other, 2: third}, GOLD, "none", dict.fromkeys(range(3), False), most=3)
    assert sorted(found.members) == [0, 1, 2]
    assert found.score == 100
    assert found.loss == found.losses[2] < found.losses[0]
    right, wrong = 2 / 3 * math.log(0.99) + math.log(0.3) / 3, 2 / 3 * math.log(0.01) + math.log(0.7) / 3
    sure = -math.log(0.99 / (0.99 + 0.01))  # rows on which nobody is wrong
    assert found.loss == pytest.approx((3 * math.log(1 + math.exp(wrong - right)) + sure) / 4)


def test_fewer_where_others_make_it_worse_by_more_than_noise():
    worse = {0: raw(0.9), 1: raw(0.89), 2: raw(0.5)}
    assert decide(worse, GOLD, "none", dict.fromkeys(range(3), False), most=3).members == (0,)
    noisy = {0: raw(0.9, 0.9, 0.9, 0.5), 1: raw(0.84, 0.84, 0.84, 0.58)}  # a little worse, as luck would have it
    assert decide(noisy, GOLD, "none", dict.fromkeys(range(2), False), most=2).members == (0, 1)


def test_several_are_judged_like_one_each_row_at_the_temperature_of_the_others():
    """Sure, and wrong in one of four: a temperature of all rows would be told by the very row that it is judged on."""
    gold = GOLD[:8]
    one = raw(0.99, 0.99, 0.99, 0.99, 0.99, 0.99, 0.2, 0.2, gold=gold)
    other = raw(0.95, 0.95, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, gold=gold)
    found = decide({0: one, 1: other}, gold, "choose", dict.fromkeys(range(2), False), most=2)
    assert found.losses[0] == pytest.approx(found.told["loss"])
    assert {readout.calibration for readout in found.readouts} == {"none"}
    parts = []
    for words in (one.words, other.words):
        lines = []
        for row in range(8):
            left = [place for place in range(8) if place != row]
            picked = temperature([words[place] for place in left], [gold[place] for place in left])
            lines.append(Readout(temperature=picked).answer(words[row]))
        parts.append(lines)
    mean = [-line[label] for line, label in zip(mean_answers(parts), gold, strict=True)]
    assert found.losses[1] == pytest.approx(sum(mean) / 8)


def temperature(lines, gold):
    """That of the lowest loss, and of its cost, as `dept.engine.readout` has it."""

    def loss(t):
        return sum(-Readout(temperature=t).answer(line)[label] for line, label in zip(lines, gold, strict=True))

    return min(TEMPERATURES, key=lambda t: loss(t) + math.log(t) ** 2 / 2)


def test_copies_answer_once():
    alike = {0: raw(0.9, 0.6), 1: raw(0.9, 0.6), 2: raw(0.6, 0.9)}
    assert decide(alike, GOLD, "none", dict.fromkeys(range(3), False), most=2).members == (0, 2)


def test_a_head_that_answers_alone_stays_alone():
    words = raw(0.6)
    head = Raw(words.words, raw(0.9).words)
    assert decide({0: head}, GOLD, "none", {0: True}).readouts[0].weight == 1
    free = decide({0: head}, GOLD, "none", {0: False}).readouts[0]
    assert free.weight == 1  # the words only dilute it


def test_scores_that_are_not_finite_come_last():
    broken = Raw([[math.nan, math.nan] for _ in GOLD])
    assert decide({0: broken, 1: raw(0.6)}, GOLD, "none", {0: False, 1: False}, most=2).members[0] == 1


def test_what_has_no_loss_joins_nobody():
    """A start whose scores are not finite."""
    lost = Raw([[math.nan, math.nan]] * len(GOLD))
    found = decide({0: raw(0.9), 1: lost}, GOLD, "none", dict.fromkeys(range(2), False), most=4)
    assert found.members == (0,)
    assert found.loss == pytest.approx(-math.log(0.9))


def answers(*sure):
    return raw(*sure).words


def test_linear_baselines_join_with_half_of_the_weight():
    """They are sure and wrong elsewhere; each has one vote, the candidates have four."""
    one, other = raw(0.9, 0.9, 0.2, 0.9), raw(0.9, 0.2, 0.9, 0.9)
    words, states = answers(0.6, 0.9, 0.9, 0.9), answers(0.9, 0.9, 0.6, 0.8)
    alone = decide({0: one, 1: other}, GOLD, "none", dict.fromkeys(range(2), False), most=2)
    linear = {"tfidf": words, "probe": states}
    found = decide({0: one, 1: other}, GOLD, "none", dict.fromkeys(range(2), False), 2, linear)
    assert found.members == alone.members == (0, 1)
    assert set(found.beside) == {"probe", "tfidf"}
    assert found.weights == (2.0, 2.0, 1.0, 1.0)
    assert (alone.beside, alone.weights) == ((), ())
    assert found.loss < alone.loss
    voices = [linear[name] for name in found.beside]
    by_hand = [
        sum(weight * line[label] for weight, line in zip(found.weights, lines, strict=True)) / 6
        - sum(weight * line[1 - label] for weight, line in zip(found.weights, lines, strict=True)) / 6
        for *lines, label in zip(one.words, other.words, *voices, GOLD, strict=True)
    ]
    assert found.loss == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in by_hand) / len(GOLD))
    assert found.score == 100 * sum(margin > 0 for margin in by_hand) / len(GOLD)


def test_linear_baselines_that_make_it_worse_by_more_than_noise_stay_away():
    found = decide({0: raw(0.99)}, GOLD, "none", {0: False}, 1, {"probe": answers(0.3), "tfidf": answers(0.995)})
    assert found.beside == ("tfidf",)
    assert found.weights == (4.0, 1.0)
    assert decide({0: raw(0.99)}, GOLD, "none", {0: False}, 1, {"probe": answers(0.1)}).beside == ()


def test_a_baseline_whose_answers_are_not_finite_joins_nobody():
    broken = [[math.nan, math.nan], *answers(0.9)[1:]]
    found = decide({0: raw(0.6)}, GOLD, "none", {0: False}, 1, {"probe": broken, "tfidf": answers(0.9)})
    assert found.beside == ("tfidf",)
    assert math.isfinite(found.loss)
