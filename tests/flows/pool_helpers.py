"""A Prefect server's pools with live workers of their own, for tests that run plans through deployments."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from infra.prefect_api import client, ensure_pools

ROOT = Path(__file__).resolve().parents[2]
FLOWS = {  # name and entrypoint, by deployment and pool; as infra/prefect.yaml has them (tests/infra/test_setup.py)
    ("fewshot", "control"): ("dept-transfer", "flows/transfer.py:dept_transfer"),
    ("nightly", "control"): ("dept-retrain", "flows/retrain.py:dept_retrain"),
    ("tidy", "control"): ("dept-after-crash", "flows/after_crash.py:dept_after_crash"),
    ("worker", "gpu"): ("dept-work", "flows/work.py:dept_work"),
}
_SERVE = """
import asyncio, socket, sys
from prefect.workers.process import ProcessWorker

async def one(name):
    await ProcessWorker(work_pool_name=name, name=f"{socket.gethostname()}-{name}", limit=limit).start()

limit = int(sys.argv[1]) or None
async def serve():
    await asyncio.gather(*map(one, sys.argv[2:]))

asyncio.run(serve())
"""
# A host of its own: another name, and what the others have on their disks is not there.
_HOST = 'hostname "$1"; shift; while [ "$1" != -- ]; do mount -t tmpfs none "$1"; shift; done; shift; exec "$@"'


def hosts_can_be_played():
    """Whether this process may give others a host name and mounts of their own."""
    command = ["unshare", "--uts", "--mount", "sh", "-c", _HOST, "sh", "played", "--", "hostname"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return done.stdout.strip() == "played"


def deploy(api, limit=None, **entrypoints):
    """Pools and deployments; `limit`: of the pool gpu. Returns ids of deployments by name."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    ensure_pools(api)
    made = {}
    with client(api) as asked:
        asked.update_work_pool("gpu", WorkPoolUpdate(concurrency_limit=limit, is_paused=False))
        for pool in ("control", "gpu"):  # an earlier test's, which were killed, still seem to live
            for worker in asked.read_workers_for_work_pool(pool):
                asked.request(
                    "DELETE",
                    "/work_pools/{work_pool_name}/workers/{name}",
                    path_params={"work_pool_name": pool, "name": worker.name},
                )
        for (name, pool), (flow, entrypoint) in FLOWS.items():
            made[name] = asked.create_deployment(
                asked.create_flow_from_name(flow),
                name,
                work_pool_name=pool,
                entrypoint=entrypoints.get(name, entrypoint),
                # As `prefect deploy` has it. A `path` alone would copy the folder, .venv with it, for each flow run.
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
                tags=["dept"],
                enforce_parameter_schema=False,
                job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}},
            )
    return made


@contextlib.contextmanager
def served(api, log, pools=("control", "gpu"), host=None, hidden=(), lead=None, limit=0, **more):
    """Workers of Prefect for pools, in one process, while the block runs.

    Args:
        host: a host name of their own, where folders in `hidden` are empty; None: this host.
        lead: a folder that comes first on the path of modules. limit: flow runs of a pool at a time; 0: no bound.
    """
    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "OMP_NUM_THREADS": "1",
        "DEPT_CPU_SLOTS": "8",
        "DEPT_CPU_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, [lead, ROOT]))),
        **more,
    }
    command = [sys.executable, "-c", _SERVE, str(limit), *pools]
    if host is not None:
        command = ["unshare", "--uts", "--mount", "sh", "-c", _HOST, "sh", host, *map(str, hidden), "--", *command]
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            flows = psutil.Process(process.pid).children(recursive=True)  # in sessions of their own
            process.kill()
            for one in flows:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()


def finished(api, run_id, seconds=500):
    """The state in which a flow run ends."""
    deadline = time.monotonic() + seconds
    with client(api) as asked:
        while True:
            state = asked.read_flow_run(run_id).state
            if state is not None and state.is_final():
                return state
            assert time.monotonic() < deadline, state
            time.sleep(0.5)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
