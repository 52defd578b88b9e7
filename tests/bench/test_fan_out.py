"""One plan, N workers: stacks of a tiny backbone that sleep as a device would keep them waiting, divided and timed.

Each stack is really claimed, trained for a step, tested, stored and logged; the sleep stands for the device, so that
the processors of this machine do not decide. Counted is from the moment that all workers wait until all is finished.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows import transfer
from flows.execution.open import open_plan
from flows.planning.plan_file import load_plan
from flows.planning.trials import target_specs
from tests.flows.conftest import block, write_task

ROOT = Path(__file__).resolve().parents[2]
STACKS = int(os.environ.get("DEPT_BENCH_STACKS", "64"))
SECONDS = 2.0  # that a stack keeps the device
WORKER = """
import sys, time
import torch
torch.set_num_threads(1)
from flows import work as flow
from flows.execution import engines, work

train, work.GROUP = engines.train, 1  # a trial is a stack
def slow(*args, **told):
    time.sleep({seconds})
    return train(*args, **told)
engines.train = slow
flow.run(sys.argv[1])
"""


def plan_of(folder, backbone):
    write_task(folder / "film.csv", "film", 0)
    body = {
        "name": "fan-out",
        "backbone": str(backbone),
        "own_tasks": {"film": block(folder / "film.csv")},
        "targets": ["film"],
        "strategies": ["scratch"],
        "methods": ["dept"],
        "beside": [],
        "shots": [2],
        "seeds": [0],
        "test_rows": 2,
        "adapter": {"m": 4, "r": 2, "s": 24},
        "scratch_training": {"steps": 1, "batch_size": 2, "eval_every": 1},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(body))
    return load_plan(folder / "plan.yaml")


def seconds_of(workers, folder, backbone, monkeypatch):
    """How long so many workers take for all stacks, and how many each did."""
    folder.mkdir()
    for name, value in {
        "DEPT_HOME": str(folder / "home"),
        "DEPT_LOCKS": str(folder / "locks"),
        "DEPT_CPU_SLOTS": str(workers),
        "DEPT_CPU_THREADS": "1",
        "DEPT_LINGER_SECONDS": "600",
    }.items():
        monkeypatch.setenv(name, value)
    plan = plan_of(folder, backbone)
    context = open_plan(plan)
    (spec,) = [one for one in target_specs(plan, context.inputs, {}) if one.training.steps]
    with transfer.begun(context, plan.name, "transfer"), (folder / "log").open("ab") as log:
        transfer.remember(context, plan)
        ledger, run_id = context.ledger, context.run_id
        command = [sys.executable, "-c", WORKER.format(seconds=SECONDS), run_id]
        running = [subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) for _ in range(workers)]
        try:
            first = [spec.model_copy(update={"seed": 1000 + number}) for number in range(workers)]
            until(lambda: len(ledger.workers(run_id)) == workers, folder, running)
            ledger.add(first, run_id, "warm")  # each loads its backbone
            until(lambda: not ledger.left(run_id), folder, running)
            begun = time.monotonic()
            ledger.add([spec.model_copy(update={"seed": seed}) for seed in range(STACKS)], run_id, "targets")
            until(lambda: not ledger.left(run_id), folder, running, 0.05)
            took = time.monotonic() - begun
        finally:
            for process in running:
                process.kill()
                process.wait()
        assert ledger.counts(run_id) == {"finished": STACKS + workers}, (folder / "log").read_text()[-3000:]
        owners = [told["pid"] for told in ledger.provenance(run_id, "targets").values()]
    return took, sorted(map(owners.count, set(owners)))


def until(condition, folder, running, pause=0.2):
    while not condition():
        assert all(process.poll() is None for process in running), (folder / "log").read_text()[-3000:]
        time.sleep(pause)


@pytest.mark.slow
@pytest.mark.parametrize(("database", "workers", "least"), [("postgresql", 4, 3.2), ("sqlite", 4, 2.0)])
def test_more_workers_finish_sooner(
    database, workers, least, request, tmp_path, tiny_folders, monkeypatch, record_property
):
    found = {}
    for count in (1, workers):
        if database == "postgresql":
            server = request.getfixturevalue("postgres")
            monkeypatch.setenv("DEPT_LEDGER_URL", server.url())
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url())
        found[count] = seconds_of(count, tmp_path / str(count), tiny_folders["llama"], monkeypatch)
    (alone, _), (together, each) = found[1], found[workers]
    told = (
        f"{database}: {STACKS} stacks of {SECONDS:g} s: 1 worker {alone:.1f} s, {workers} workers {together:.1f} s, "
        f"{alone / together:.2f} x as fast; each did {each}"
    )
    record_property(f"fan-out {database}", told)
    print(told)
    assert alone / together >= least, told
