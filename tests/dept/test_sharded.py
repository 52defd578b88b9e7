"""Training under DeepSpeed ZeRO-3 on two CPU ranks gives what one process gives, and no rank outlives its job."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

from dept.adapters.initialise import from_text, with_head
from dept.adapters.stack import NAMES, Tensors
from dept.backbones.backbone import Backbone
from dept.baselines.probe import train_head
from dept.batches.tokenise import encode, encode_open
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.distributed import job
from dept.distributed.launch import RankDiedError, Session
from dept.engine.checkpoint import tidy
from dept.engine.evaluate import score_rows
from dept.engine.features import features
from dept.engine.generate import generate_ids
from dept.engine.mixture import learn_weights
from dept.engine.search import search
from dept.engine.train import Trial, train
from infra.errors import InputError
from tests.dept.test_dept_stack import assert_same, assert_told, trials_of
from tests.dept.test_search import candidates_of

ROOT = Path(__file__).parents[2]
SECONDS_TO_END = 10
FLOW = """
import sys
from pathlib import Path
from dept.distributed import job
from dept.distributed.launch import Session
with Session(sys.argv[2], folder=Path(sys.argv[3])) as session:
    session.train(job.read_trials(Path(sys.argv[1]))[1])
"""


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def train_sharded(trials, backbone, *, folder, ranks=2, dtype=None, **told):
    """Train trials in a session of their own."""
    with Session(backbone, ranks, dtype, folder=folder) as session:
        return session.train(trials, **told)


def processes_of(folder):
    """torchrun and ranks of a job that are alive."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        named = str(folder) in (process.info["cmdline"] or [])
        if named and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process)
    return found


def seconds_until(condition, limit):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - start


def long_trials(backbone, steps):
    """Trials of which the last two go on for `steps` steps, so that there is time to kill."""
    trials = trials_of(backbone)
    return [*trials[:2], *(replace(t, config=t.config.model_copy(update={"steps": steps})) for t in trials[2:])]


def reports(folder):
    return [json.loads(file.read_text()) for file in sorted((folder / "ranks").glob("*.json"))]


def assert_shared(folder, backbone):
    """Two ranks, each with half of the backbone's numbers, which none gathers beyond the pass that needs them."""
    total = sum(p.numel() for p in backbone.parameters())
    ranks = reports(folder)
    assert [rank["total"] for rank in ranks] == [total, total]
    assert all(total / 2 <= rank["held"] <= total * 0.51 for rank in ranks)
    assert [rank["left_gathered"] for rank in ranks] == [0, 0]
    assert len({rank["pid"] for rank in ranks}) == 2


def test_two_ranks_give_what_one_process_gives(tiny_folders, tmp_path):
    """Encoder-decoder; trials join and leave; nothing stays behind."""
    folder, seen, single, sharded, points = tmp_path / "job", [], [], [], []
    backbone = Backbone.from_pretrained(str(tiny_folders["t5"]), device="cpu")
    trials = trials_of(backbone)
    expected = train(trials, backbone, EngineOptions(adapters_at_once=2, token_budget=40), on_tokens=single.append)
    results = train_sharded(
        trials,
        str(tiny_folders["t5"]),
        options=EngineOptions(adapters_at_once=2, token_budget=40),
        folder=folder,
        on_result=lambda r: seen.append(r.key),
        on_tokens=sharded.append,
        on_point=points.append,
    )
    assert sorted(seen) == sorted(results) == sorted(expected)
    for key, result in results.items():
        assert_same(result, expected[key])
        assert result.state.validation_curve == expected[key].state.validation_curve
        assert result.state.tokens == expected[key].state.tokens
        assert_told(points, result)
    assert sum(sharded) == sum(single)
    assert_shared(folder, backbone)
    assert sorted(file.name for file in folder.iterdir()) == ["ranks", "ranks.log"]
    assert not processes_of(folder)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_one_session_does_all_that_needs_a_backbone(tiny_folders, tmp_path, family):
    """Starts, training, scoring, generation and mixing in the ranks give what one process gives."""
    name, folder = str(tiny_folders[family]), tmp_path / "session"
    own = Backbone.from_pretrained(name, device="cpu")
    config, texts = AdapterConfig(m=4, r=2, s=24), ["the film was good", "bad plot and awful acting", "great"]
    rows = encode(own.tokens, texts, ("negative", "positive"), [1, 0, 1], config)
    gold = {"a": [row.only_gold() for row in rows[:2]], "b": [row.only_gold() for row in rows[1:]]}
    recipe = TrainConfig(steps=4, lr_prompt=0.05, eval_every=2)
    with Session(name, ranks=2, folder=folder) as session:
        assert session.provenance() == {}
        start = from_text(session, config, "good or bad?", 3)
        tokens = []
        adapters = [session.train([Trial("x", start, recipe, rows, rows)], on_tokens=tokens.append)["x"].adapter, start]
        assert sum(tokens) > 0
        items = [(i, row) for i in (0, 1) for row in rows]
        scored = session.score(adapters, items, progress=tokens.append)
        session.check_adapter(adapters[0])
        open_rows = [(0, row) for row in encode_open(session.tokens, texts, config, 5)]
        written = session.generate(adapters[:1], open_rows, 5)
        weights = session.learn_weights(adapters, gold, steps=3)
        depths = (0.5, 1.0)
        bare, read = session.features(items, depths), session.features(items, depths, adapters, tokens.append)
        shape = config.model_copy(update={"answers": "both", "layers": depths})
        headed = Trial("h", with_head(start, train_head(read[3:], rows, read[:0], []), shape), recipe, rows, rows)
        with_words = session.train([headed])["h"].adapter
        answered = session.score([with_words], [(0, row) for row in rows])
        assert session.score([], []) == []
        tried = candidates_of(own)
        searched = session.search("mine", tried, rungs=(2, 4), eta=2, on_tokens=tokens.append)
        pids = [report["pid"] for report in reports(folder)]
        assert session.provenance()["sharded"] is True
        assert session.provenance()["ranks"] == 2
    assert not processes_of(folder)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert_shared(folder, own)
    assert sorted(file.name for file in folder.iterdir()) == ["ranks", "ranks.log"]
    mine = from_text(own, config, "good or bad?", 3)
    for part in NAMES:
        assert torch.equal(getattr(mine, part), getattr(start, part))
    expected = train([Trial("x", mine, recipe, rows, rows)], own)["x"].adapter
    for part in NAMES:
        torch.testing.assert_close(getattr(adapters[0], part), getattr(expected, part), atol=1e-4, rtol=0)
    tensors = Tensors.of(adapters, own.device)
    torch.testing.assert_close(torch.tensor(scored), torch.tensor(score_rows(own, tensors, items)), atol=1e-4, rtol=0)
    alone = Tensors.of(adapters[:1], own.device)
    texts_of = [own.tokenizer.decode(ids, skip_special_tokens=True) for ids in generate_ids(own, alone, open_rows, 5)]
    assert written == texts_of
    for target, found in learn_weights(own, adapters, gold, steps=3).items():
        assert weights[target] == pytest.approx(found, abs=1e-4)
    torch.testing.assert_close(bare, features(own, items, depths), atol=1e-4, rtol=0)
    torch.testing.assert_close(read, features(own, items, depths, tensors), atol=1e-4, rtol=0)
    with_head_here = train([headed], own)["h"].adapter
    for name, value in with_head_here.parts.items():
        torch.testing.assert_close(with_words.parts[name], value, atol=1e-4, rtol=0)
    mine_too = score_rows(own, Tensors.of([with_head_here], own.device), [(0, row) for row in rows])
    torch.testing.assert_close(torch.tensor(answered), torch.tensor(mine_too), atol=1e-4, rtol=0)
    one = search("mine", tried, own, rungs=(2, 4), eta=2)
    assert [t.left for t in searched.tried] == [t.left for t in one.tried]
    assert (searched.winner, searched.steps, searched.tokens) == (one.winner, one.steps, one.tokens)


def test_a_dead_rank_ends_the_others_and_the_next_call_goes_on(tiny_folders, tmp_path):
    """Causal; kill -9 of a rank after the first result; the rest goes on from the checkpoint to the same numbers."""
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu")
    trials, folder, done, killed = long_trials(backbone, 30), tmp_path / "job", {}, []

    def kill(result):
        done[result.key] = result
        if not killed:
            killed.append(time.monotonic())
            os.kill(json.loads((folder / "ranks" / "1.json").read_text())["pid"], signal.SIGKILL)

    saving = EngineOptions(adapters_at_once=2, checkpoint_folder=tmp_path / "checkpoint", checkpoint_seconds=0)
    with pytest.raises(RankDiedError, match="exitcode"):
        train_sharded(trials, str(tiny_folders["llama"]), folder=folder, on_result=kill, options=saving)
    assert time.monotonic() - killed[0] < SECONDS_TO_END
    assert not processes_of(folder)
    assert not any(psutil.pid_exists(rank["pid"]) for rank in reports(folder))
    left = [trial for trial in trials if trial.key not in done]
    assert left
    saved = list((tmp_path / "checkpoint").rglob("*.safetensors"))
    assert saved
    with safe_open(saved[0], framework="pt") as file:
        reached = {key: state["step"] for key, state in json.loads(file.metadata()["state"])["states"].items()}
    assert any(reached.values())
    tokens = []
    second = train_sharded(
        left, str(tiny_folders["llama"]), folder=tmp_path / "second", on_tokens=tokens.append, options=saving
    )
    whole = []
    expected = train(trials, backbone, EngineOptions(adapters_at_once=2))
    for key, result in (done | second).items():
        assert_same(result, expected[key])
    train(left, backbone, EngineOptions(adapters_at_once=2), on_tokens=whole.append)
    assert sum(tokens) < sum(whole), "it began anew"
    assert_shared(tmp_path / "second", backbone)
    tidy(tmp_path / "checkpoint", lambda key: key not in expected)  # none of them is wanted any more
    assert not any((tmp_path / "checkpoint").rglob("*.safetensors"))


def test_ranks_end_when_the_flow_is_killed(tiny_folders, tmp_path):
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu")
    job.write_trials(tmp_path / "trials", long_trials(backbone, 10**6), EngineOptions())
    folder = tmp_path / "job"
    flow = subprocess.Popen([sys.executable, "-c", FLOW, tmp_path / "trials", tiny_folders["llama"], folder], cwd=ROOT)
    try:
        seconds_until(lambda: len(list((folder / "ranks").glob("[01].json"))) == 2 or flow.poll() is not None, 90)
        assert len(processes_of(folder)) >= 4, "flow, torchrun and two ranks"
    finally:
        flow.kill()
        flow.wait()
    try:
        seconds_until(lambda: not processes_of(folder), SECONDS_TO_END)
    finally:
        for process in processes_of(folder):
            process.kill()


def test_a_backbone_that_cannot_be_loaded_is_bad_input(tiny_folders, tmp_path):
    """Before any process starts where that can be seen, else by way of the rank that finds it out."""
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu")
    trials = trials_of(backbone, 1)
    with pytest.raises(InputError, match="no such folder"):
        train_sharded(trials, "/nowhere", folder=tmp_path / "none")
    for change, message in (({"ranks": 0}, "at least 1"), ({"dtype": "float64"}, "cannot be sharded")):
        with pytest.raises(InputError, match=message):
            train_sharded(trials, str(tiny_folders["llama"]), folder=tmp_path / "none", **change)
    assert not (tmp_path / "none").exists()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny_folders["llama"].iterdir():
        body = file.read_bytes()
        (damaged / file.name).write_bytes(body[: len(body) // 2] if file.suffix == ".safetensors" else body)
    with pytest.raises(InputError, match="cannot be loaded"):
        train_sharded(trials, str(damaged), ranks=1, folder=tmp_path / "job")
    assert not processes_of(tmp_path / "job")


def test_a_job_says_what_was_given(tiny_llama, tmp_path):
    trials = [replace(one, calibration="batch", neutral=one.rows[:2]) for one in long_trials(tiny_llama, 7)]
    job.write_trials(tmp_path, trials, EngineOptions(checkpoint_seconds=1.5))
    options, read = job.read_trials(tmp_path)
    for ours, theirs in zip(read, trials, strict=True):
        assert (ours.key, ours.config, ours.seed) == (theirs.key, theirs.config, theirs.seed)
        assert (list(ours.rows), list(ours.validation)) == (list(theirs.rows), list(theirs.validation))
        assert (ours.calibration, list(ours.neutral)) == ("batch", list(theirs.neutral))
        for name in ("prompt", "a", "b"):
            assert torch.equal(getattr(ours.start, name), getattr(theirs.start, name))
    assert options.checkpoint_seconds == 1.5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_every_row_once(tiny_llama, tmp_path, size, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from dept.distributed.ranks import Ranks

    rows = trials_of(tiny_llama, 1)[0].rows
    groups = [[(0, row) for row in rows[:4]], [(1, rows[4])], [(1, rows[0]), (0, rows[1])]]
    shared = [Ranks(tiny_llama, rank, size, tmp_path).share(groups) for rank in range(size)]
    for index, group in enumerate(groups):
        parts = [share[index] for share in shared]
        assert all(part for part, _ in parts), "every rank runs the backbone equally often"
        counted = [item for part, weight in parts if weight for item in part]
        assert sorted(counted, key=repr) == sorted(group, key=repr)
