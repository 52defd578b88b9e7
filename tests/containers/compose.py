"""`make compose-test`: build the image, start infra/compose.yaml, run a small plan on it, look at what came of it.

Needs nothing but an engine, and Python for this file. The environment says which one and how:

    COMPOSE        the command; default `docker compose`; `podman-compose` works as well
    COMPOSE_FILE   as the engine takes it: infra/compose.yaml, followed by files of your own that change it
    BUILD=no       takes the image dept-transfer that is there
    KEEP=yes       leaves everything running afterwards
    DEPT_TEST_MINUTES  how long the plan may take (20)
"""

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFECT, MLFLOW = "http://127.0.0.1:4200/api", "http://127.0.0.1:5000/api/2.0/mlflow"
TEXT = "A gorgeous, clever film."
PLAN = {  # the demo, cut small
    "name": "compose-test",
    "backbone": "smollm2-135m",
    "sources": ["amazon-polarity"],
    "targets": ["movie-polarity"],
    "shots": [4],
    "seeds": [0],
    "strategies": ["scratch", "best-source"],
    "methods": ["dept"],
    "beside": [],
    "test_rows": 4,
    "prompt_text": "Classify the sentiment: negative or positive.",
    "adapter": {"m": 4, "r": 2, "s": 32, "alpha": 4.0},
    "source_training": {"steps": 2, "batch_size": 2, "lr_prompt": 1e-2, "lr_low_rank": 1e-3},
    "transfer_training": {"steps": 2, "batch_size": 2, "lr_prompt": 1e-3, "lr_low_rank": 1e-4, "eval_every": 2},
    "scratch_training": {"steps": 2, "batch_size": 2, "lr_prompt": 3e-2, "lr_low_rank": 1e-4, "eval_every": 2},
    "source_validation_rows": 4,
    "probe_steps": 0,
}


def compose(*words, quiet=False):
    """Run the engine; its output, if quiet. Raises SystemExit with the end of what it said if it fails."""
    command = [*shlex.split(os.environ.get("COMPOSE") or "docker compose"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=quiet, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: exit code {done.returncode}\n{(done.stderr or '')[-3000:]}")
    return done.stdout


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or "null")


def until(what, condition, seconds):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(2)


def online(pool):
    workers = ask(f"{PREFECT}/work_pools/{pool}/workers/filter", {})
    return any(worker["status"] == "ONLINE" for worker in workers)


def run_plan():
    """Let the deployment carry the plan out; seconds."""
    started, minutes = time.monotonic(), float(os.environ.get("DEPT_TEST_MINUTES", "20"))
    (deployment,) = ask(f"{PREFECT}/deployments/filter", {"deployments": {"name": {"any_": ["fewshot"]}}})
    made = ask(f"{PREFECT}/deployments/{deployment['id']}/create_flow_run", {"parameters": {"plan": PLAN}})

    def ended():
        run = ask(f"{PREFECT}/flow_runs/{made['id']}")
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    run = until("the end of the plan", ended, minutes * 60)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["work_pool_name"] == "control", run["work_pool_name"]
    return time.monotonic() - started


def trials():
    return json.loads(compose("exec", "-T", "control", "dept", "trials", "--json", quiet=True))["trials"]


def check():
    """What the run must have left behind, asked from outside of the containers."""
    runs = ask(f"{PREFECT}/flow_runs/filter", {"flow_runs": {}})
    workers = [run for run in runs if run["work_pool_name"] == "gpu"]
    assert workers, "no worker's flow run in the pool gpu"
    begun = [run for run in workers if run["start_time"] is not None]  # the others were taken back: nothing was left
    assert begun, workers
    assert {run["state_type"] for run in begun} == {"COMPLETED"}, [(run["name"], run["state_type"]) for run in workers]
    assert {run["state_type"] for run in workers if run not in begun} <= {"CANCELLED"}, workers
    rows = trials()
    assert rows
    assert {row["status"] for row in rows} == {"finished"}, rows
    models = ask(f"{MLFLOW}/registered-models/search")["registered_models"]
    assert any("movie-polarity" in model["name"] for model in models), models
    ids = [one["experiment_id"] for one in ask(f"{MLFLOW}/experiments/search?max_results=10")["experiments"]]
    found = ask(f"{MLFLOW}/runs/search", {"experiment_ids": ids, "max_results": 1000})["runs"]
    assert {run["info"]["status"] for run in found} == {"FINISHED"}, [run["info"] for run in found]
    # An adapter that the gpu container trained, read from the store by another.
    answer = compose("exec", "-T", "control", "dept", "predict", "--task", "movie-polarity", TEXT, quiet=True)
    assert "positive" in answer or "negative" in answer, answer
    return len(rows), len(found), len(workers)


def prepare():
    """A project of its own, so that a stack that somebody works with is left alone; nothing of an earlier test."""
    os.environ.setdefault("COMPOSE_FILE", "infra/compose.yaml")
    os.environ.setdefault("POSTGRES_PASSWORD", secrets.token_hex(8))
    os.environ["COMPOSE_PROJECT_NAME"] = "dept-compose-test"
    compose("down", "--volumes", quiet=True)


def main():
    prepare()
    began = time.monotonic()
    if os.environ.get("BUILD") != "no":
        compose("build")
    built = time.monotonic() - began
    try:
        compose("up", "--detach")
        until("Prefect's page", lambda: ask(f"{PREFECT}/health"), 300)
        until("MLflow", lambda: ask(f"{MLFLOW}/experiments/search?max_results=1"), 300)
        until("a worker in each pool", lambda: online("control") and online("gpu"), 300)
        up = time.monotonic() - began - built
        took = run_plan()
        count, runs, workers = check()
        again = run_plan()
        assert len(trials()) == count, "the second run trained again what the ledger knows"
    except BaseException:
        subprocess.run([*shlex.split(os.environ.get("COMPOSE") or "docker compose"), "logs"], cwd=ROOT, check=False)
        raise
    finally:
        if os.environ.get("KEEP") != "yes":
            compose("down", "--volumes", quiet=True)
    print(f"image built in {built:.0f} s, services up in {up:.0f} s")
    print(f"a plan of {count} trials in {took:.0f} s by {workers} worker run(s), {runs} MLflow runs")
    print(f"the same plan again, from the ledger, in {again:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
