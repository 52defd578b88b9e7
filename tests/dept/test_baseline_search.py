"""A search of baselines keeps the raw scores of what it tried, by which readouts are chosen."""

import pytest

from dept.baselines.search import search_baseline
from dept.baselines.train import train_baseline
from tests.dept.test_search import candidates_of


@pytest.mark.parametrize("method", ["lora", "full"])
def test_its_raw_scores_are_those_of_single_trainings_stopped_there(tiny_llama, method):
    """Each row as the fold that has not learned from it scores it at the candidate's best step, in the rows' order."""
    if method == "lora":
        pytest.importorskip("peft", reason="peft is an optional extra: pip install 'peft>=0.17'")
    candidates = candidates_of(tiny_llama, rates=(0.1, 0.02, 0.005, 0.001))
    found = search_baseline(method, tiny_llama, candidates, rungs=(2, 4), eta=2)
    assert sorted(found.raws) == [0, 1, 2, 3]
    ends = [(tried.best[0], tried.losses[-1][0]) for tried in found.tried]
    assert any(best < last for best, last in ends), ends  # else the last scores would do
    assert any(best > 0 for best, _ in ends), ends
    for number, tried in enumerate(found.tried):
        words = []
        for trial in candidates[number]:
            config = trial.config.model_copy(update={"last": tried.best[0]})
            with train_baseline(method, tiny_llama, trial.rows, (), config, trial.seed) as baseline:
                words += baseline.score(trial.validation)
        assert found.raws[number].head is None
        for mine, wanted in zip(found.raws[number].words, words, strict=True):
            assert mine == pytest.approx(wanted, abs=1e-4)
