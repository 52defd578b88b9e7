"""Speed and memory against rivals, side by side in one run: medians of ratios, printed and written as JSON.

`make bench` on a quiet machine. A missed bar is told, not hidden: the test fails only where a rival cannot be run.
"""

import importlib.metadata
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

from dept import stack
from dept.evaluate import score_rows
from dept.initialise import from_text
from tests.bench import rivals, setting

pytest.importorskip("peft", reason="peft is for the benchmark alone: make bench installs it")
ROWS: list[dict] = []
OUT = Path(os.environ.get("DEPT_BENCH_OUT", "bench.json"))


def seconds(step):
    began = time.perf_counter()
    step()
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
    named = ("torch", "transformers", "peft")
    OUT.write_text(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "threads": torch.get_num_threads(),
                "machine": f"{platform.machine()}, {os.cpu_count()} processors",
                "versions": {n: importlib.metadata.version(n) for n in named},
                "rows": ROWS,
            },
            indent=1,
        )
    )


@pytest.fixture
def fresh_model(backbone):
    """A second copy of the backbone for PEFT, which changes the model it is given."""
    from dept.loading import load_model

    return load_model(str(backbone.folder), torch.float32)


def test_authors_way(backbone):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    ours = setting.loop(backbone, setting.PAPER, [rows])
    shape = setting.PAPER
    compare(
        "optimizer step against the authors' way (pad to 256, full logits), m=40",
        ours.step,
        rivals.authors(backbone.model, rows, backbone.pad_id, shape.m, shape.s, shape.r),
        10,
        rounds=2,
    )
    peak = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.bench.memory", which], capture_output=True, text=True, check=True
            ).stdout
        )["mib"]
        for which in ("ours", "authors")
    ]
    tell("peak memory of a step against the authors' way", *peak, peak[0] / peak[1], 0.5, True, "MiB")


def test_peft_prompt_tuning(backbone, fresh_model):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    theirs = rivals.peft_step(rivals.prompt_tuning(fresh_model, 100), rows, backbone.pad_id)
    compare(
        "optimizer step against PEFT prompt tuning, 100 tokens",
        setting.loop(backbone, setting.PAPER, [rows]).step,
        theirs,
        3,
    )


def test_peft_lora(backbone, fresh_model):
    theirs = rivals.peft_step(
        rivals.lora(fresh_model), setting.review_rows(backbone, setting.PAPER, 8), backbone.pad_id
    )
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    compare(
        "optimizer step alone against PEFT LoRA r=1, m=40",
        setting.loop(backbone, setting.PAPER, [rows]).step,
        theirs,
        1,
        rounds=5,
    )
    many = [setting.review_rows(backbone, setting.SMALL, 8) for _ in range(16)]
    compare(
        "stack of 16, m=10, against 16 LoRA runs one by one",
        setting.loop(backbone, setting.SMALL, many).step,
        theirs,
        1.4,
        scale=16,
    )


def test_floor(backbone):
    rows = setting.review_rows(backbone, setting.PAPER, 8)
    theirs = rivals.floor(backbone.model, rows, backbone.pad_id)
    for config in (setting.SMALL, setting.PAPER):
        compare(
            f"optimizer step against the bare backbone, m={config.m}",
            setting.loop(backbone, config, [rows]).step,
            theirs,
            1.25,
            rounds=5,
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


def test_mixed_evaluation(backbone, fresh_model):
    adapters = [from_text(backbone, setting.SMALL, setting.TEXT, i) for i in range(32)]
    rows = [setting.review_rows(backbone, setting.SMALL, 8, skip=8 * i) for i in range(32)]
    tensors = stack.Tensors.of(adapters, backbone.device)
    items = [(i, row) for i, own in enumerate(rows) for row in own]
    theirs = rivals.prompt_tuning(fresh_model, round(setting.SMALL.equal_prompt_length(backbone.d)), "0")
    for i in range(1, 32):
        theirs.add_adapter(str(i), theirs.peft_config["0"])
    batches = [rivals.padded(own, backbone.pad_id)[:2] for own in rows]

    @torch.inference_mode()
    def one_by_one():
        for i, (ids, mask) in enumerate(batches):
            theirs.set_adapter(str(i))
            theirs(input_ids=ids, attention_mask=mask)

    compare(
        "evaluation of 32 tasks, 8 rows each, mixed, against PEFT set_adapter per task",
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
        times[n] = statistics.median(seconds(made.step) / n for _ in range(2))
    tell("time per trial, 64 trials in a stack against 1", times[64], times[1], times[64] / times[1], 1.0, True, "s")
    per_trial = sum(t.nbytes for part in made.stack.dump().values() for t in part.values()) / 64 / 2**20
    tell("tensors of one more trial in a stack", per_trial, 1.0, per_trial, 1.0, True, "MiB")
