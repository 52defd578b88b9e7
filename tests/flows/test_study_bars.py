"""The bars of the study: each can be met, missed and not measured, with the figures that say so."""

import pytest

from flows.studies.bars import bars


def study(k=16, ensembles=(), **by_variant):
    """Scores of two seeds by variant: {target: (score, score)}."""
    rows = [
        {"target": target, "k": k, "variant": variant.replace("_", "-"), "seeds": [8, 9], "scores": list(scores)}
        for variant, targets in by_variant.items()
        for target, scores in targets.items()
    ]
    return {"rows": rows, "ensembles": [{"k": k, "gain": gain} for gain in ensembles]}


def verdicts(told):
    return {bar.name: None if bar.points is None else round(bar.points, 3) for bar in bars(told)}


def test_auto_is_held_against_the_best_of_each_target_and_the_best_mean():
    told = study(
        auto={"movie-polarity": (90, 92), "bbc-topic": (80, 84)},
        lora={"movie-polarity": (70, 72), "bbc-topic": (84, 86)},
        probe={"movie-polarity": (60, 62), "bbc-topic": (50, 52)},
    )
    found = verdicts(told)
    assert found["1 auto on movie-polarity, within a point"] == pytest.approx(91 - 71 + 1)
    assert found["1 auto on bbc-topic, within a point"] == pytest.approx(82 - 85 + 1)
    assert found["1 auto"] == pytest.approx(86.5 - 78 - 3)  # lora has the best mean
    assert found["5 auto on bbc-topic"] == pytest.approx(82 - 85 - 3)
    assert "missed by 2.0" in next(str(bar) for bar in bars(told) if bar.name == "1 auto on bbc-topic, within a point")


def test_at_four_shots_the_mean_alone_counts():
    found = verdicts(study(k=4, auto={"bbc-topic": (70, 72)}, tfidf={"bbc-topic": (68, 69)}))
    assert not any("within" in name for name in found)
    assert found["1 auto"] == pytest.approx(71 - 68.5 - 2)


def test_transfer_scratch_prompt_tuning_and_ensembles():
    told = study(
        scratch={"movie-polarity": (80, 82), "sms-spam": (60, 70)},
        transfer={"movie-polarity": (79, 82), "sms-spam": (90, 92)},
        prompt_tuning={"movie-polarity": (80, 80), "sms-spam": (60, 66)},
        ensembles=(0.5, 2.5),
    )
    found = verdicts(told)
    assert found["2 scratch against prompt tuning"] == pytest.approx(1.5)
    assert found["3 transfer against scratch"] == pytest.approx(85.75 - 73 - 5)
    assert found["3 transfer on movie-polarity"] == pytest.approx(-0.5)
    assert found["4 ensembles against their mean member"] == pytest.approx(0.5)
    assert "± 2.5 over 2 seeds" in next(str(bar) for bar in bars(told) if bar.name == "3 transfer against scratch")


def test_parts_of_a_study_count_as_one():
    auto, lora = {"movie-polarity": (90, 92)}, {"movie-polarity": (70, 72)}
    first, second = study(auto=auto, ensembles=(0.5,)), study(lora=lora, ensembles=(2.5,))
    whole = study(auto=auto, lora=lora, ensembles=(0.5, 2.5))
    assert [str(bar) for bar in bars(first, second)] == [str(bar) for bar in bars(whole)]
    assert verdicts(whole)["1 auto"] == 17


def test_what_was_not_run_is_said():
    found = bars(study(scratch={"movie-polarity": (80, 82)}))
    assert all(bar.points is None for bar in found)
    assert all("not measured" in str(bar) for bar in found)


def test_only_seeds_that_have_every_target_count():
    told = study(scratch={"a": (80, 82)}, prompt_tuning={"a": (70, 90)})
    told["rows"][0] |= {"seeds": [8], "scores": [80]}
    assert verdicts(told)["2 scratch against prompt tuning"] == pytest.approx(10)
