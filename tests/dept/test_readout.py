"""How scores become answers: the arithmetic of a readout, its file, and the choice on validation rows."""

import dataclasses
import json
import math
import random

import pytest
import torch

from dept.adapters.adapter import MANIFEST, Adapter
from dept.adapters.initialise import from_text
from dept.adapters.stack import Tensors
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, TrainConfig
from dept.engine.evaluate import Raw, Request, score, score_rows
from dept.engine.readout import Scored, choose
from dept.engine.train import Trial, train
from dept.readout import Readout
from infra.errors import InputError
from tests.dept.test_head import headed

CONFIG = AdapterConfig(m=4, r=2, s=24)
WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]
NOTHING = Raw([])


def logs(*lines):
    return [[math.log(p) for p in line] for line in lines]


def test_an_answer_is_worked_out_in_its_order():
    """By hand: words .8 .2 over a bias of .5 .25 are 2/3, 1/3; with a head of .2 .8 at .75; at temperature 2."""
    readout = Readout(0.75, "contextual", (math.log(0.5), math.log(0.25)), 2.0)
    ratio = (2 / 3 / (1 / 3)) ** 0.25 * (0.2 / 0.8) ** 0.75
    cooled = math.sqrt(ratio)
    (words,), (head,) = logs((0.8, 0.2)), logs((0.2, 0.8))
    found = [math.exp(value) for value in readout.answer([w - 7 for w in words], [h + 3 for h in head])]
    assert found == pytest.approx([cooled / (1 + cooled), 1 / (1 + cooled)])
    assert [math.exp(v) for v in Readout().answer(words)] == pytest.approx([0.8, 0.2])
    with pytest.raises(InputError, match="calibrated for 2 labels, not 3"):
        readout.answer([0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"temperature": math.nan},
        {"weight": 1.5},
        {"calibration": "batch"},
        {"bias": [0.0]},
        {"calibration": "batch", "bias": [math.inf, 0.0]},
        {"calibration": "batch", "bias": ["0", 0.0]},
        {"calibration": "magic", "bias": [0.0]},
        {"power": 2},
    ],
)
def test_numbers_that_no_readout_can_have_are_refused(wrong):
    with pytest.raises(InputError, match="adapter"):
        Readout.of({**Readout().body, **wrong})


def test_a_file_keeps_the_readout_and_its_sha256_covers_it(tiny_llama, tmp_path):
    adapter = from_text(tiny_llama, CONFIG, "good or bad?", 0)
    bare = adapter.save(tmp_path / "bare")
    adapter.readout = Readout(0.5, "batch", (-0.1, -2.5, -3.0), 1.7)
    digest = adapter.save(tmp_path / "calibrated")
    found = Adapter.load(tmp_path / "calibrated")
    assert (found.readout, found.sha256) == (adapter.readout, digest)
    assert digest != bare  # it answers differently, so whoever asks for the one must not get the other
    manifest = json.loads((tmp_path / "calibrated" / MANIFEST).read_text())
    manifest["readout"]["temperature"] = 1.0
    (tmp_path / "calibrated" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="another readout"):
        Adapter.load(tmp_path / "calibrated")


def test_scores_are_calibrated_wherever_an_adapter_answers(tiny):
    plain, other = (from_text(tiny, CONFIG, text, i) for i, text in enumerate(("good or bad?", "happy or sad?")))
    asked = [Request(text, WORDS, which) for text in TEXTS for which in (0, 1)]
    before = score(tiny, [plain, other], asked)
    other.readout = Readout(0.5, "contextual", (-3.0, -0.5, -1.0), 2.0)
    after = score(tiny, [plain, other], asked)
    for request, old, new in zip(asked, before, after, strict=True):
        expected = old
        if request.adapter == 1:
            shifted = torch.tensor(old).log_softmax(0) - torch.tensor([-3.0, -0.5, -1.0])
            expected = (shifted / 2).log_softmax(0).tolist()
        assert new == pytest.approx(expected, abs=1e-4)


def rows_of(probabilities, gold):
    """Words whose probabilities depend on the label: a scored validation set."""
    return Scored(Raw(logs(*probabilities)), gold, NOTHING, NOTHING)


def test_the_bias_that_helps_is_chosen_and_only_then():
    """Label 1 is never told but by calibration; then the same rows without the prejudice."""
    draw = random.Random(0)
    gold = [i % 2 for i in range(16)]
    sure = [[0.9, 0.1] if g == 0 else [0.2, 0.8] for g in gold]
    prejudiced = [[0.95 * p, 0.05 * q] for p, q in sure]
    prejudiced = [[p / (p + q), q / (p + q)] for p, q in prejudiced]
    scored = dataclasses.replace(rows_of(prejudiced, gold), neutral=Raw(logs([0.95, 0.05])))
    readout, told, _ = choose(scored, "choose")
    assert readout.calibration in ("contextual", "batch")
    assert told["loss"] < told["plain"] - 0.2
    answers = [readout.answer(line) for line in scored.validation.words]
    assert [line.index(max(line)) for line in answers] == gold
    assert choose(scored, "none")[0] == Readout()
    assert choose(scored, "batch")[0].calibration == "batch"
    noise = [draw.uniform(-0.05, 0.05) for _ in gold]
    fair = [[0.85 + n, 0.15 - n] if g == 0 else [0.15 + n, 0.85 - n] for g, n in zip(gold, noise, strict=True)]
    harmful = dataclasses.replace(rows_of(fair, gold), neutral=Raw(logs([0.05, 0.95])))
    assert choose(harmful, "choose")[0].calibration == "none"


def test_contextual_takes_the_mean_probability_and_batch_that_of_all_texts():
    scored = Scored(Raw(logs([0.5, 0.5])), [0], Raw(logs([0.9, 0.1])), Raw(logs([0.8, 0.2], [0.4, 0.6])))
    contextual, batch = (choose(scored, asked)[0].bias for asked in ("contextual", "batch"))
    assert [math.exp(value) for value in contextual] == pytest.approx([0.6, 0.4])
    assert [math.exp(value) for value in batch] == pytest.approx([0.7, 0.3])


def test_a_temperature_makes_probabilities_honest():
    """Rows that are sure to 99 % and right in three of four: as sure as they are right afterwards."""
    gold = [0] * 30 + [1] * 10
    scored = rows_of([[0.99, 0.01]] * 40, gold)
    readout, told, _ = choose(scored, "none")
    assert readout.temperature == 1.0  # nobody asked
    readout, told, _ = choose(scored, "choose")
    assert math.exp(readout.answer(scored.validation.words[0])[0]) == pytest.approx(0.75, abs=0.05)
    assert told["loss"] < told["plain"]
    right = rows_of([[0.9, 0.1]] * 4, [0] * 4)
    assert choose(right, "choose")[0].temperature >= 0.4  # few rows that are all right prove little


def test_the_weight_of_a_head_follows_who_is_right():
    gold = [0, 1] * 8
    good = [[0.9, 0.1] if g == 0 else [0.1, 0.9] for g in gold]
    useless = [[0.6, 0.4] if i % 4 < 2 else [0.3, 0.7] for i in range(16)]
    by_words = Scored(Raw(logs(*good), logs(*useless)), gold, Raw([], []), Raw([], []))
    by_head = Scored(Raw(logs(*useless), logs(*good)), gold, Raw([], []), Raw([], []))
    for asked in ("none", "choose"):
        assert choose(by_words, asked)[0].weight < 0.5
        assert choose(by_head, asked)[0].weight > 0.5
    assert choose(by_words, "none", (1.0,))[0].weight == 1.0  # a head alone stays alone
    assert choose(dataclasses.replace(by_words, gold=()), "choose")[0] == Readout()


def calibrated_trial(backbone, calibration="choose", steps=3):
    gold = [1, 0, 0, 2, 0]
    start = from_text(backbone, CONFIG, "good or bad?", 0)
    rows = encode(backbone.tokens, TEXTS, WORDS, gold, CONFIG)
    neutral = encode(backbone.tokens, ["N/A", "[MASK]"], WORDS, None, CONFIG)
    config = TrainConfig(steps=steps, batch_size=2, lr_prompt=0.05, eval_every=1)
    return Trial("one", start, config, rows[:3], rows[1:], 0, calibration, neutral)


@pytest.mark.parametrize("calibration", ["choose", "contextual", "batch"])
def test_training_leaves_an_adapter_that_answers_as_it_was_validated(tiny, calibration):
    """The bias is that of the kept adapter; the scores of validation are not computed again."""
    trial = calibrated_trial(tiny, calibration)
    counted = []
    result = train([trial], tiny, on_tokens=counted.append)["one"]
    readout, state = result.adapter.readout, result.state
    bare = result.adapter.with_parts(result.adapter.parts)
    bare.readout = None

    def scored(adapter, rows):
        return score_rows(tiny, Tensors.of([adapter], tiny.device), [(0, row) for row in rows])

    taken = {"contextual": trial.neutral, "batch": [*trial.rows, *trial.validation]}
    if readout.calibration in taken:
        table = torch.tensor(scored(bare, taken[readout.calibration]), dtype=torch.float64).softmax(1)
        assert readout.bias == pytest.approx(table.mean(0).log().tolist(), abs=1e-4)
    told = {"calibration": readout.calibration, "temperature": readout.temperature}
    assert {key: state.readout[key] for key in told} == told
    losses = torch.tensor(scored(result.adapter, trial.validation))
    gold = torch.tensor([row.gold for row in trial.validation])
    assert state.best["loss"] == pytest.approx(float(-losses[torch.arange(4), gold].mean()), abs=1e-4)
    plain = []
    train([dataclasses.replace(trial, calibration="none")], tiny, on_tokens=plain.append)
    more = {"choose": (*trial.rows, *trial.neutral), "contextual": trial.neutral, "batch": trial.rows}[calibration]
    assert sum(counted) - sum(plain) == sum(len(row.source) if tiny.family == "seq2seq" else row.length for row in more)


def test_an_untrained_adapter_needs_no_rows_for_content_free_calibration(tiny_llama):
    trial = dataclasses.replace(calibrated_trial(tiny_llama, "contextual", steps=0), rows=(), validation=())
    assert train([trial], tiny_llama)["one"].adapter.readout.calibration == "contextual"
    kept = dataclasses.replace(trial, calibration="choose")
    assert train([kept], tiny_llama)["one"].adapter.readout is None


def test_batch_that_is_asked_for_needs_no_validation_rows(tiny_llama):
    """As after a search, when all rows train."""
    trial = dataclasses.replace(calibrated_trial(tiny_llama, "batch"), validation=())
    assert train([trial], tiny_llama)["one"].adapter.readout.calibration == "batch"


def test_the_readout_of_a_start_is_not_that_of_what_is_trained_from_it(tiny_llama):
    trial = calibrated_trial(tiny_llama, "none")
    trial.start.readout = Readout(0.5, "batch", (-0.1, -2.5, -3.0), 1.7)
    assert train([trial], tiny_llama)["one"].adapter.readout is None


@pytest.mark.parametrize("calibration", ["choose", "batch", "contextual"])
def test_what_a_search_has_chosen_is_what_a_refit_answers_with(tiny_llama, calibration):
    """No row is left to choose by. Content-free inputs were not scored by the search: its weight of the head stays."""
    trial = dataclasses.replace(calibrated_trial(tiny_llama, calibration, steps=0), validation=())
    start = headed(tiny_llama, 0)
    given = Readout(0.25, "batch", (-0.1, -2.5, -3.0), 1.7)
    refit = dataclasses.replace(trial, start=start, readout=given)
    readout = train([refit], tiny_llama)["one"].adapter.readout
    if calibration == "contextual":
        assert (readout.calibration, readout.weight) == ("contextual", 0.25)
    else:
        assert readout == given
