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

LEASE, STOPPED = 10.0, 14.0  # seconds: a process that is stopped for so long has lost its trials


class Soak:
    """One run of a plan in pools, under fire.

    Args:
        api: of the Prefect server. folder: for logs. servers: each restarted once, in mid-run.
    """

    def __init__(self, api, plan, folder, *, workers, kills, stops, servers=(), seed=0, **environment):
        self.api, self.plan, self.folder, self.workers = api, plan, folder, workers
        self.kills, self.stops, self.servers = kills, stops, list(servers)
        self.draw, self.environment = random.Random(seed), environment
        self.log = folder / "served.log"
        self.figures = Counter()

    def run(self):
        """Begin, disturb, wait, check; returns the figures."""
        began = time.monotonic()
        ids = deploy(self.api, limit=self.workers)
        lease = {"DEPT_LEASE_SECONDS": f"{LEASE:g}", **self.environment}
        with served(self.api, self.log, **lease), client(self.api) as asked:
            parameters = {"plan": self.plan.model_dump(mode="json"), "workers": self.workers}
            run = asked.create_flow_run_from_deployment(ids["fewshot"], parameters=parameters).id
            wait_for(self.owners, 240)
            self.disturb()
            state = self.ended(run)
            assert state == "COMPLETED", f"{state}\n{self.log.read_text()[-5000:]}"
        self.figures["seconds"] = round(time.monotonic() - began)
        self.check()
        return dict(self.figures)

    def owners(self):
        """Processes that hold trials."""
        named = {row.owner for row, good in Ledger.open().held() if good and row.owner}
        return sorted(pid for pid in (int(name.rsplit(":", 2)[1]) for name in named) if psutil.pid_exists(pid))

    def disturb(self):
        """Everything that is to happen, in an order of chance; at most two kills in a row without a trial done."""
        what = ["kill"] * self.kills + ["stop"] * self.stops + ["restart"] * len(self.servers)
        self.draw.shuffle(what)
        since, done = 0, self.done()
        for kind in what:
            if self.done() > done:
                since, done = 0, self.done()
            wait_for(lambda s=since, d=done: (s < 2 or self.done() > d) and (self.owners() or self.left() == 0), 300)
            time.sleep(self.draw.uniform(0.2, 2.0))
            if self.left() == 0:
                break
            if kind == "restart":
                self.restart(self.servers.pop())
            elif pids := self.owners():
                since += kind == "kill"
                self.hit(kind, self.draw.choice(pids))
        print(json.dumps({"done when the last shot fell": self.done(), "left": self.left()}), flush=True)

    def hit(self, kind, pid):
        with contextlib.suppress(ProcessLookupError):
            if kind == "kill":
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(STOPPED)
                os.kill(pid, signal.SIGCONT)
            self.figures[kind] += 1

    def restart(self, server):
        server.stop()
        time.sleep(self.draw.uniform(1.0, 4.0))
        server.start()
        self.figures[f"restart of {type(server).__name__}"] += 1

    def done(self):
        return Ledger.open().counts().get("finished", 0)

    def left(self):
        counts = Ledger.open().counts()
        return sum(counts.get(status, 0) for status in ("pending", "running", "trained"))

    def ended(self, run, seconds=900):
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(ConnectionError), client(self.api) as asked:
                state = asked.read_flow_run(run).state
                if state.is_final():
                    return state.type.value
            assert time.monotonic() < deadline, f"{state}\n{self.log.read_text()[-5000:]}"
            time.sleep(1)

    def check(self):
        """Each trial finished once, no second MLflow run or version, none lost."""
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
        found = Counter(run.data.tags["fingerprint"] for run in runs)
        assert found == Counter(wanted.keys()), (found - Counter(wanted.keys()), Counter(wanted.keys()) - found)
        assert {run.info.run_id for run in runs} == set(wanted.values())
        assert {run.info.status for run in runs} == {"FINISHED"}
        (parent,) = tracker.client.search_runs([tracker.experiment_id], "tags.kind = 'flow'")
        assert parent.info.status == "FINISHED"
        moved = Counter(row.model for row in ledger.decisions() if row.decision in ("first", "promoted"))
        versions = Counter(v.name for v in tracker.client.search_model_versions() if v.name in moved)
        assert versions == moved, (versions, moved)
        attempts = Counter(row.attempt for row in rows)
        self.figures |= Counter(trials=len(rows), mlflow_runs=len(runs), model_versions=sum(versions.values()))
        self.figures["attempts"] = dict(sorted(attempts.items()))


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
        options = {name: given[name] for name in ("workers", "kills", "stops", "seed")}
        soak = Soak(prefect.api, plan, folder, servers=[mlflow, prefect], **options)
        figures = soak.run()
    print(json.dumps(figures))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    assert Path.cwd() == ROOT, f"run it in {ROOT}"
    main()
