"""Speed and memory against the alternatives, side by side in one run: medians of ratios, printed and written as JSON.

`make bench` on a quiet machine. A missed bar is told, not hidden: the test fails only where one of them cannot be run.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from dept.adapters.stack import Tensors
from dept.engine import forward
from dept.engine.evaluate import score_rows
from tests.bench import baselines, setting

ROWS: list[dict] = []
OUT = Path(os.environ.get("DEPT_BENCH_OUT", "bench.json"))


def seconds(step):
    began = time.perf_counter()
    step()
    if setting.ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(name, ours, theirs, bar, rounds=3, at_most=False, scale=1.0):
    """Run the two in turn; the median of theirs * scale / ours, or of ours / theirs where the bar is a ceiling."""
    ours(), theirs()  # warm up
    pairs = [(seconds(ours), seconds(theirs) * scale) for _ in range(rounds)]
    ratio = statistics.median(a / b if at_most else b / a for a, b in pairs)
    tell(name, *(statistics.median(column) for column in zip(*pairs, strict=True)), ratio, bar, at_most, "s")


def tell(name, ours, theirs, ratio, bar, at_most, unit):
    met = ratio <= bar if at_most else ratio >= bar
    ROWS.append({"row": name, "ours": ours, "theirs": theirs, "ratio": ratio, "bar": bar, "met": met, "unit": unit})
    print(
        f"\n{name}: ours {ours:.3g} {unit}, theirs {theirs:.3g} {unit}, ratio {ratio:.2f}, "
        f"bar {'at most' if at_most else 'at least'} {bar}: {'met' if met else 'MISSED'}",
        flush=True,
    )


@pytest.fixture(scope="module")
def backbone():
    torch.set_num_threads(os.cpu_count() or 1)  # conftest takes one, for tiny models
    yield setting.backbone()
    named = [n for n in ("torch", "transformers", "peft") if importlib.util.find_spec(n)]
    OUT.write_text(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
                "setting": setting.WHAT,
                "threads": torch.get_num_threads(),
                "machine": f"{platform.machine()}, {os.cpu_count()} processors",
                "versions": {n: importlib.metadata.version(n) for n in named},
                "rows": ROWS,
            },
            indent=1,
        )
    )


@pytest.fixture
def plain():
    """The model as transformers gives it; PEFT changes what it is given, so each test has its own."""
    return setting.plain_model()


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is for the benchmark alone: make bench installs it")


def test_authors_way(backbone, plain):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    ours = setting.loop(backbone, setting.PAPER, [rows])
    shape = setting.PAPER
    compare(
        "optimizer step against the authors' way (pad to 256, full logits), m=40",
        ours.step,
        baselines.authors(plain, rows, shape.m, shape.s, shape.r),
        10,
    )


@pytest.mark.skipif(setting.ON_GPU, reason="reads the memory of a process")
def test_memory_against_the_authors_way():
    peak = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.bench.memory", which], capture_output=True, text=True, check=True
            ).stdout
        )["mib"]
        for which in ("ours", "authors")
    ]
    tell("peak memory of a step against the authors' way", *peak, peak[0] / peak[1], 0.5, True, "MiB")


def test_peft_prompt_tuning(backbone, plain, peft):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    compare(
        "optimizer step against PEFT prompt tuning, 100 tokens",
        setting.loop(backbone, setting.PAPER, [rows]).step,
        baselines.peft_step(baselines.prompt_tuning(plain, 100), rows),
        3,
    )


def test_peft_lora(backbone, plain, peft):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    theirs = baselines.peft_step(baselines.lora(plain, setting.ATTENTION), rows)
    compare(
        "optimizer step alone against PEFT LoRA r=1, m=40",
        setting.loop(backbone, setting.PAPER, [rows]).step,
        theirs,
        1,
        rounds=7,
    )
    many = [setting.review_rows(backbone, setting.SMALL, 8) for _ in range(16)]
    compare(
        "stack of 16, m=10, against 16 LoRA runs one by one",
        setting.loop(backbone, setting.SMALL, many).step,
        theirs,
        1.4,
        scale=16,
    )


def test_floor(backbone, plain):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    for config in (setting.SMALL, setting.PAPER):
        ours = setting.loop(backbone, config, [rows]).step
        compare(
            f"optimizer step against the bare backbone, m={config.m}",
            ours,
            baselines.floor(plain, rows),
            1.25,
            rounds=7,
            at_most=True,
        )
        compare(
            f"optimizer step against the bare backbone with our linear layers, m={config.m}",
            ours,
            baselines.floor(backbone.model, rows),
            1.25,
            rounds=7,
            at_most=True,
        )


@pytest.mark.parametrize("m", [10, 40])
def test_stack_against_single_runs(backbone, m):
    config = setting.SMALL if m == 10 else setting.PAPER
    rows = [setting.review_rows(backbone, config, 4, skip=4 * i) for i in range(16)]
    singles = [setting.loop(backbone, config, [own]) for own in rows]
    compare(
        f"16 trials of batch 4 in one stack against 16 single runs, m={m}",
        setting.loop(backbone, config, rows).step,
        lambda: [single.step() for single in singles],
        1.3,
    )


@pytest.mark.parametrize("m", [10, 40])
def test_mixed_evaluation(backbone, plain, peft, m):
    """The 256 rows come in turn, one of each task after the other; PEFT has them sorted into batches per task."""
    config = setting.SMALL if m == 10 else setting.PAPER
    rows = [setting.review_rows(backbone, config, 8, skip=8 * i) for i in range(32)]
    tensors = Tensors.of([setting.adapter(backbone, config, i) for i in range(32)], backbone.device)
    items = [(task, rows[task][turn]) for turn in range(8) for task in range(32)]
    length = round(config.equal_prompt_length(backbone.d))
    theirs = baselines.prompt_tuning(plain, length, "0")
    for i in range(1, 32):
        theirs.add_adapter(str(i), theirs.peft_config["0"])
    batches = [baselines.padded(own, backbone.device)[:2] for own in rows]

    @torch.inference_mode()
    def one_by_one():
        for i, (ids, mask) in enumerate(batches):
            theirs.set_adapter(str(i))
            theirs(input_ids=ids, attention_mask=mask)

    compare(
        f"evaluation of 32 tasks, 8 rows each, mixed, m={m}, against PEFT prompts of {length}, a batch per task",
        lambda: score_rows(backbone, tensors, items),
        one_by_one,
        3,
    )


def test_growth(backbone):
    times = {}
    for n in (1, 4, 16, 64):
        rows = [setting.review_rows(backbone, setting.SMALL, 4, skip=4 * i) for i in range(n)]
        made = setting.loop(backbone, setting.SMALL, rows)
        made.step()
        times[n] = statistics.median(seconds(made.step) / n for _ in range(3))
        print(f"\n{n} trials in a stack: {times[n]:.3f} s per trial and step", flush=True)
    for n in (4, 16, 64):
        tell(f"time per trial, {n} trials in a stack against 1", times[n], times[1], times[n] / times[1], 1, True, "s")
    kept = sum(t.nbytes for part in made.stack.dump().values() for t in part.values())
    leaves = forward.prefix(backbone, made.stack.tensors).leaves()
    prefixes = sum(t.nbytes for t in leaves.keys + leaves.values)
    tell(
        "tensors of one more trial: adapter, moments, best copy",
        kept / 64 / 2**20,
        1,
        kept / 64 / 2**20,
        1,
        True,
        "MiB",
    )
    print(
        f"\nbesides, for the time of a step: its prompt's keys and values, {prefixes / 64 / 2**20:.2f} MiB", flush=True
    )


def test_where_the_time_goes(backbone):
    """Share of operators in one step of m=40, and the share of the matrix peak that real tokens reach."""
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    step = setting.loop(backbone, setting.PAPER, [rows]).step
    step()
    with torch.profiler.profile() as profiler:
        step()
    spent = {e.key: e.self_device_time_total or e.self_cpu_time_total for e in profiler.key_averages()}
    total = sum(spent.values())
    shares = {key: round(t / total, 3) for key, t in sorted(spent.items(), key=lambda pair: -pair[1])[:8]}
    side = 4096 if setting.ON_GPU else 2048
    a, b = torch.randn(2, side, side, device=backbone.device, dtype=backbone.dtype)
    a @ b
    peak = 2 * side**3 / statistics.median(seconds(lambda: a @ b) for _ in range(5))
    many = [setting.review_rows(backbone, setting.SMALL, 8, skip=8 * i) for i in range(16)]
    stacked = setting.loop(backbone, setting.SMALL, many).step
    stacked()
    embedding = backbone.model.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in backbone.parameters()) - embedding
    tokens = sum(row.length for own in many for row in own) + 16 * setting.SMALL.m
    reached = 4 * weights * tokens / statistics.median(seconds(stacked) for _ in range(2)) / peak
    ROWS.append({"row": "profile", "operators": shares, "matrix peak, GFLOP/s": peak / 1e9, "share reached": reached})
    print(f"\none step of m=40 by operator: {shares}\na stack of 16 reaches {reached:.0%} of {peak / 1e9:.0f} GFLOP/s")
