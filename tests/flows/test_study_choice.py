"""How far a study's choice could be trusted: figures worked out by hand."""

import pytest

from flows.studies.choice import trust


def study(k, **methods):
    """Per method its draws: (loss on folds, score on folds, test score); seeds count from 8."""
    rows, searches = [], []
    for name, draws in methods.items():
        method = name.replace("_", "-")
        seeds = range(8, 8 + len(draws))
        scores = [test for _, _, test in draws]
        rows.append({"target": "sms-spam", "k": k, "variant": method, "seeds": list(seeds), "scores": scores})
        for seed, (loss, folds, _) in zip(seeds, draws, strict=True):
            searches.append(
                {"target": "sms-spam", "k": k, "seed": seed, "for": method, "loss": loss, "score": folds, "test": None}
            )
    return {"rows": rows, "searches": searches}


def test_what_folds_promised_stands_beside_what_test_rows_said():
    (one,) = trust(study(16, scratch=[(0.2, 90, 80), (0.4, 80, 70)], probe=[(0.3, 60, 85), (0.5, 60, 69)]))
    assert one.methods == {"scratch": (2, 85, 75), "probe": (2, 60, 77)}
    assert (one.agreed, one.pairs) == (1, 2)  # seed 8: the lower loss had the lower test score
    assert one.hindsight == pytest.approx((85 - 80 + 70 - 70) / 2)
    assert "scratch: 85.0 on folds, 75.0 on test rows (+10.0) over 2 draws" in str(one)
    assert "in 1 of 2 pairs" in str(one)


def test_methods_of_other_parts_are_compared_on_the_same_draw_alone():
    first, second = study(4, scratch=[(0.2, 90, 80), (0.3, 70, 60)]), study(4, lora=[(0.1, 95, 90)])
    (one,) = trust(first, second)
    assert (one.agreed, one.pairs, one.hindsight) == (1, 1, 0)


def test_equal_scores_tell_nothing_and_auto_is_not_among_those_it_chooses_from():
    (one,) = trust(study(16, scratch=[(0.2, 90, 80)], lora=[(0.1, 95, 80)], auto=[(0.05, 99, 99)]))
    assert (one.pairs, one.hindsight) == (0, 0)
    assert "auto" not in one.methods
    assert "no pair to compare" in str(one)


def test_shots_stand_apart():
    assert [one.k for one in trust(study(4, probe=[(1, 50, 60)]), study(16, probe=[(1, 50, 60)]))] == [16, 4]
