"""`make soak`: many workers, many tiny trials, processes that die, hang and come back, servers that restart.

Afterwards each trial is finished once, with one MLflow run, one version of a model for each decision, and none is lost.
By `python -m tests.soak`, 4 workers and 200 trials; DEPT_SOAK_TRIALS, DEPT_SOAK_KILLS, DEPT_SOAK_SEED change that.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from infra.prefect_api import client
from registry.ledger import Ledger
from registry.tracking import Tracker
from tests.flows.pool_helpers import ROOT, deploy, served, wait_for
from tests.servers import DebianPostgres, MlflowServer

LEASE, GROUP = 10.0, 8  # seconds; trials claimed at once: many claims, so that shots fall into all that a worker does
SMALL_GROUPS = f"""
import importlib.util, sys

class Finder:  # what Python starts with must not import the product
    def find_spec(self, name, path=None, target=None):
        if name != "flows.execution.work":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), setattr(module, "GROUP", {GROUP}))
        return spec

sys.meta_path.insert(0, Finder())
"""


class Fire:
    """What happens to processes that hold trials of the ledger, and to servers; and what must be true afterwards.

    Args:
        kills, stops: how many. servers: each restarted once. All in an order of chance.
    """

    def __init__(self, *, kills, stops, servers=(), seed=0, lease=LEASE):
        self.kills, self.stops, self.servers = kills, stops, list(servers)
        self.draw, self.stopped = random.Random(seed), lease * 1.4  # seconds: who is stopped so long loses its trials
        self.figures = Counter()

    def owners(self):
        """Processes that hold trials."""
        named = {row.owner for row, good in Ledger.open().held() if good and row.owner}
        return sorted(pid for pid in (int(name.rsplit(":", 2)[1]) for name in named) if psutil.pid_exists(pid))

    def done(self):
        return Ledger.open().counts().get("finished", 0)

    def left(self):
        counts = Ledger.open().counts()
        return sum(counts.get(status, 0) for status in ("pending", "running", "trained"))

    def rage(self, pause=2.0):
        """At most two kills in a row without a trial done: a controller gives up on workers that get nothing done."""
        what = ["kill"] * self.kills + ["stop"] * self.stops + ["restart"] * len(self.servers)
        self.draw.shuffle(what)
        since, done = 0, self.done()
        for kind in what:
            if self.done() > done:
                since, done = 0, self.done()

            def ready(since=since, done=done):
                return (since < 2 or self.done() > done) and (self.owners() or self.left() == 0)

            while True:
                wait_for(ready, 600)
                time.sleep(self.draw.uniform(0.1, pause))
                if self.left() == 0:
                    break
                if kind == "restart":
                    self.restart(self.servers.pop())
                    break
                pids = self.owners()
                if pids and self.hit(kind, self.draw.choice(pids)):
                    since += kind == "kill"
                    break
        self.figures["left when the last shot fell"] = self.left()

    def hit(self, kind, pid):
        """Whether there was something to hit."""
        try:
            if kind == "kill":
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.stopped)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        self.figures[kind] += 1
        return True

    def restart(self, server):
        server.stop()
        time.sleep(self.draw.uniform(1.0, 4.0))
        server.start()
        self.figures[f"restart of {type(server).__name__}"] += 1

    def check(self):
        """Each trial finished once, no second MLflow run or model version, none lost; returns the figures."""
        ledger, tracker = Ledger.open(), Tracker()
        rows = ledger.find()
        assert {row.status for row in rows} == {"finished"}, Counter(row.status for row in rows)
        wanted = {row.fingerprint: row.mlflow_run_id for row in rows if row.mlflow_run_id}
        runs, token = [], None
        while True:
            page = tracker.client.search_runs([tracker.experiment_id], "tags.kind = 'trial'", page_token=token)
            runs, token = [*runs, *page], page.token
            if not token:
                break
        found, once = Counter(run.data.tags["fingerprint"] for run in runs), Counter(wanted.keys())
        assert found == once, (found - once, once - found)
        assert {run.info.run_id for run in runs} == set(wanted.values())
        assert {run.info.status for run in runs} == {"FINISHED"}
        moved = Counter(row.model for row in ledger.decisions() if row.decision in ("first", "promoted"))
        versions = Counter(one.name for one in tracker.client.search_model_versions() if one.name in moved)
        assert versions == moved, (versions, moved)
        self.figures |= Counter(trials=len(rows), mlflow_runs=len(runs), model_versions=sum(versions.values()))
        return {**self.figures, "attempts": dict(sorted(Counter(row.attempt for row in rows).items()))}


def carried_out(api, plan, folder, fire, workers, **environment):
    """A plan, carried out by pools of a Prefect server under fire; returns the figures."""
    began, log = time.monotonic(), folder / "served.log"
    ids = deploy(api, limit=workers)
    (folder / "lead").mkdir()
    (folder / "lead" / "sitecustomize.py").write_text(SMALL_GROUPS, encoding="utf-8")
    with (
        served(api, log, DEPT_LEASE_SECONDS=f"{LEASE:g}", lead=folder / "lead", **environment),
        client(api) as asked,
    ):
        parameters = {"plan": plan.model_dump(mode="json"), "workers": workers}
        run = asked.create_flow_run_from_deployment(ids["fewshot"], parameters=parameters).id
        wait_for(lambda: fire.done() and fire.owners(), 900)  # the source is there; now many trials are under way
        fire.rage()
        deadline = time.monotonic() + 1800
        while not (state := _state(api, run)).is_final():
            assert time.monotonic() < deadline, f"{state}\n{log.read_text()[-5000:]}"
            time.sleep(1)
        assert state.is_completed(), f"{state}\n{log.read_text()[-5000:]}"
    return {**fire.check(), "seconds": round(time.monotonic() - began)}


def _state(api, run):
    with client(api) as asked:
        return asked.read_flow_run(run).state


class PrefectServer:
    """A Prefect server over a PostgreSQL database, that is stopped and started again on its port."""

    def __init__(self, folder, url):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.url, self.api = folder, url, f"http://127.0.0.1:{self.port}/api"

    def start(self):
        env = os.environ | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.url,
            "PREFECT_SERVER_API_PORT": str(self.port),
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "prefect.log").open("ab") as out:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
        from infra.prefect_api import answers

        wait_for(lambda: answers(self.api), 180)

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def plan_of(folder, backbone, trials):
    """About so many tiny trials: two targets, from scratch and from a source, many seeds."""
    import yaml

    from flows.planning.plan_file import load_plan
    from tests.flows.conftest import block, write_task

    nouns = ("food", "film", "plot")
    for seed, noun in enumerate(nouns):
        write_task(folder / f"{noun}.csv", noun, seed)
    tiny = {"steps": 30, "batch_size": 4, "eval_every": 10, "patience": None}
    body = {
        "name": "soak",
        "backbone": str(backbone),
        "own_tasks": {noun: block(folder / f"{noun}.csv") for noun in nouns},
        "sources": ["food"],
        "targets": ["film", "plot"],
        "shots": [4],
        "seeds": list(range(max(1, trials // 4))),
        "strategies": ["scratch", "source:food"],
        "methods": ["dept"],
        "beside": [],
        "test_rows": 6,
        "adapter": {"m": 4, "r": 2, "s": 24},
        "source_training": tiny,
        "scratch_training": tiny,
        "transfer_training": tiny,
        "source_validation_rows": 8,
    }
    (folder / "soak.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    return load_plan(folder / "soak.yaml")


def main():
    """The whole of it, on servers of its own."""
    from tests.tiny import save_backbone

    given = {
        name: int(os.environ.get(f"DEPT_SOAK_{name.upper()}", usual))
        for name, usual in {"trials": 200, "kills": 20, "stops": 5, "workers": 4, "seed": 20261126}.items()
    }
    folder = Path(tempfile.mkdtemp(prefix="dept-soak-"))
    folder.chmod(0o755)
    os.environ |= {
        "DEPT_HOME": str(folder / "home"),
        "DO_NOT_TRACK": "true",
        "HF_HUB_OFFLINE": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DEPT_PLAN_ROOTS": str(folder),
        "DEPT_LINGER_SECONDS": "20",
    }
    with contextlib.ExitStack() as stack:
        postgres = DebianPostgres(folder)
        stack.callback(postgres.stop)
        os.environ["DEPT_LEDGER_URL"] = postgres.url("ledger")
        mlflow = MlflowServer(folder, postgres.url("mlflow"))
        stack.callback(lambda: mlflow.stop())
        mlflow.start()
        os.environ["MLFLOW_TRACKING_URI"] = mlflow.uri
        prefect = PrefectServer(folder, postgres.url("prefect", "postgresql+asyncpg"))
        stack.callback(lambda: prefect.stop())
        prefect.start()
        os.environ["PREFECT_API_URL"] = prefect.api
        plan = plan_of(folder, save_backbone(folder / "tiny-llama", "llama"), given["trials"])
        options = {name: given[name] for name in ("kills", "stops", "seed")}
        fire = Fire(servers=[mlflow, prefect], **options)
        figures = carried_out(prefect.api, plan, folder, fire, given["workers"])
    print(json.dumps(figures))
    assert (figures["kill"], figures["stop"]) == (given["kills"], given["stops"]), "it was over too soon: more trials"
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    assert Path.cwd() == ROOT, f"run it in {ROOT}"
    main()
