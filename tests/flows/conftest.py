"""One Prefect server for all flow tests, and small tasks of real English that a tiny backbone gets through quickly."""

import contextlib
import csv
import os
import random

import pytest
import yaml

GOOD, BAD = ("good", "great", "happy", "quick"), ("bad", "awful", "sad", "slow")


@pytest.fixture(scope="session")
def prefect_url():
    """URL of the API of Prefect's own test harness; subprocesses get it as PREFECT_API_URL."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    # As `dept up` has it: small batches keep write transactions short, or flow runs stall on the SQLite database.
    for name in ("READ_BATCH_SIZE", "BATCH_SIZE"):
        os.environ.setdefault(f"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_{name}", "100")
    with prefect_test_harness(server_startup_timeout=240):
        yield PREFECT_API_URL.value()


def write_task(path, noun, seed, rows=80):
    """A csv of short opinions about `noun`."""
    draw = random.Random(seed)
    seen = {}
    while len(seen) < rows:
        label, words = draw.choice((("no", BAD), ("yes", GOOD)))
        seen[f"the {noun} {draw.randint(1, 99)} was {draw.choice(('very ', '', 'not so '))}{draw.choice(words)}"] = (
            label
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *seen.items()])


def block(path):
    return {
        "version": 1,
        "description": f"opinions in {path.name}",
        "license": "CC0-1.0",
        "citation": "made by the tests",
        "url": "https://example.org",
        "template": "{text} :",
        "verbalizer": {"no": "negative", "yes": "positive"},
        "source": {"kind": "file", "path": str(path)},
    }


@pytest.fixture
def make_plan(tmp_path, tiny_folders):
    """Write a plan of two sources and two targets on a tiny llama; keyword arguments replace its keys."""

    def make(**changes):
        names = ("food", "service", "film", "plot")
        for seed, noun in enumerate(names):
            if not (tmp_path / f"{noun}.csv").exists():
                write_task(tmp_path / f"{noun}.csv", noun, seed)
        body = {
            "name": "tiny",
            "backbone": str(tiny_folders["llama"]),
            "own_tasks": {noun: block(tmp_path / f"{noun}.csv") for noun in names},
            "sources": ["food", "service"],
            "targets": ["film", "plot"],
            "shots": [4],
            "seeds": [0, 1],
            "test_rows": 10,
            "methods": ["dept"],
            "beside": [],
            "adapter": {"m": 4, "r": 2, "s": 24},
            "source_training": {"steps": 6, "batch_size": 4, "eval_every": 3},
            "scratch_training": {"steps": 4, "batch_size": 4, "eval_every": 2, "lr_prompt": 0.05},
            "transfer_training": {"steps": 4, "batch_size": 4, "eval_every": 2},
            "source_validation_rows": 8,
            **changes,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
        return path

    return make


@pytest.fixture
def begin(make_plan, monkeypatch):
    """Begin a run of a plan, without Prefect; gives the context and the plan."""
    from flows import transfer
    from flows.execution.open import open_plan
    from flows.planning.plan_file import load_plan

    monkeypatch.setattr(transfer, "step", lambda name, body, **_: body())
    with contextlib.ExitStack() as stack:

        def begin(**changes):
            plan = load_plan(make_plan(**{"seeds": [0], **changes}))
            context = open_plan(plan)
            stack.enter_context(transfer.begun(context, plan.name, "transfer"))
            return context, plan

        yield begin
