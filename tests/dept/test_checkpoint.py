"""A killed stack goes on: each trial finds its state by its own key, whatever it was saved with."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from dept.adapters.stack import NAMES
from dept.config import EngineOptions
from dept.engine import checkpoint
from dept.engine.train import train
from tests.dept.test_dept_stack import assert_same, trials_of


class KilledError(Exception):
    pass


def options(folder, seconds=0.0, at_once=64):
    return EngineOptions(checkpoint_folder=folder, checkpoint_seconds=seconds, adapters_at_once=at_once)


def killed(trials, backbone, folder, at=6):
    """Train until micro-batch `at` and die."""
    calls = iter(range(10**6))

    def die(_):
        if next(calls) == at:
            raise KilledError

    with pytest.raises(KilledError):
        train(trials, backbone, options(folder), on_tokens=die)


def resumed(trials, backbone, folder):
    """Results, and key -> steps of what was restored."""
    found, tokens = {}, []
    results = train(
        trials,
        backbone,
        options(folder, 1e9),
        on_restored=lambda key, state: found.setdefault(key, state.step),
        on_tokens=tokens.append,
    )
    return results, found, sum(tokens)


@pytest.fixture
def whole(tiny_llama):
    tokens = []
    results = train(trials_of(tiny_llama), tiny_llama, on_tokens=tokens.append)
    return results, sum(tokens)


def test_part_of_what_was_saved_and_more_than_was_saved(tiny_llama, tmp_path, whole):
    """Saved: t0, t1, t2. Asked for: t1, t2 and t3, in another order. Then t0, which is still there."""
    trials = trials_of(tiny_llama)
    killed(trials[:3], tiny_llama, tmp_path)
    results, found, _ = resumed([trials[3], trials[2], trials[1]], tiny_llama, tmp_path)
    assert set(found) == {"t1", "t2"}
    assert min(found.values()) > 0
    for key, result in results.items():
        assert_same(result, whole[0][key])
    results, found, _ = resumed(trials[:1], tiny_llama, tmp_path)
    assert set(found) == {"t0"}
    assert_same(results["t0"], whole[0]["t0"])
    checkpoint.tidy(tmp_path, lambda _: False)
    assert list(tmp_path.iterdir()) == []


def test_several_files_are_put_together(tiny_llama, tmp_path, whole):
    """Two workers saved two stacks in one folder; a third goes on with both, and says how far they were."""
    trials = trials_of(tiny_llama)
    killed(trials[:2], tiny_llama, tmp_path, 5)
    killed(trials[2:], tiny_llama, tmp_path, 9)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    results, found, tokens = resumed(trials, tiny_llama, tmp_path)
    assert set(found) == {trial.key for trial in trials}
    assert len(set(found.values())) > 1
    for key, result in results.items():
        assert_same(result, whole[0][key])
        assert result.state.tokens == whole[0][key].state.tokens
        ours, theirs = (torch.tensor(r.state.validation_loss_curve) for r in (result, whole[0][key]))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert tokens < whole[1]
    assert list(tmp_path.iterdir()) == []


def test_the_furthest_state_of_a_trial_counts(tiny_llama, tmp_path):
    trials = trials_of(tiny_llama)[:2]
    killed(trials, tiny_llama, tmp_path, 7)
    (far,) = tmp_path.glob("*.safetensors")
    far.rename(tmp_path / "far.kept")
    killed(trials, tiny_llama, tmp_path, 3)
    (tmp_path / "far.kept").rename(far)
    newer = max(tmp_path.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    assert newer != far  # the nearer state is the later file
    _, found, _ = resumed(trials, tiny_llama, tmp_path)
    assert min(found.values()) >= 3


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "no state"])
def test_a_damaged_checkpoint_is_put_aside_and_said(tiny_llama, tmp_path, damage, caplog, whole):
    trials = trials_of(tiny_llama)
    killed(trials, tiny_llama, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    body = bytearray(file.read_bytes())
    if damage == "a bit":
        body[-3] ^= 4
    elif damage == "no state":
        body = body.replace(b'"state"', b'"stare"', 1)
    file.write_bytes({"cut short": body[: len(body) // 2], "empty": b""}.get(damage, body))
    results, found, tokens = resumed(trials, tiny_llama, tmp_path)
    assert found == {}
    assert tokens == whole[1]
    assert "is damaged" in caplog.text
    assert file.name in caplog.text
    assert [left.suffix for left in tmp_path.iterdir()] == [".damaged"]
    for key, result in results.items():
        for name in NAMES:
            assert torch.equal(getattr(result.adapter, name), getattr(whole[0][key].adapter, name))


def test_another_trial_of_the_same_key_is_not_taken_for_it(tiny_llama, tmp_path):
    """Keys that are no fingerprints, such as those of probes, in the folder that all share."""
    trials = trials_of(tiny_llama)[:2]
    killed(trials, tiny_llama, tmp_path)
    others = [replace(trial, seed=trial.seed + 1) for trial in trials]
    _, found, _ = resumed(others, tiny_llama, tmp_path)
    assert found == {}
    _, found, _ = resumed(trials, tiny_llama, tmp_path)
    assert set(found) == {"t0", "t1"}


@pytest.mark.parametrize("change", ["alpha", "layout", "dtype"])
def test_what_else_decides_the_steps_is_part_of_the_identity(tiny_llama, tiny_folders, tmp_path, change):
    trials, backbone = trials_of(tiny_llama)[:2], tiny_llama
    killed(trials, tiny_llama, tmp_path)
    if change == "dtype":
        backbone = type(tiny_llama).from_pretrained(str(tiny_folders["llama"]), device="cpu", dtype="float64")
    else:
        starts = [deepcopy(trial.start) for trial in trials]
        for start in starts:
            setattr(start, change, {"alpha": 2 * start.alpha, "layout": "paper"}[change])
        trials = [replace(trial, start=start) for trial, start in zip(trials, starts, strict=True)]
    _, found, _ = resumed(trials, backbone, tmp_path)
    assert found == {}


def test_files_that_nobody_asks_for_go_in_the_end(tiny_llama, tmp_path, monkeypatch):
    trials = trials_of(tiny_llama)
    killed(trials[:2], tiny_llama, tmp_path)
    resumed(trials[2:], tiny_llama, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    now = checkpoint.time.time()
    monkeypatch.setattr(checkpoint.time, "time", lambda: now + (checkpoint.DAYS + 1) * 86_400)
    resumed(trials[2:], tiny_llama, tmp_path)
    assert list(tmp_path.iterdir()) == []
