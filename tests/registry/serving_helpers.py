"""What tests of served models share: champions of a tiny backbone, and a process of `mlflow models serve`."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from dept.backbones.shared import shared_backbone
from infra.settings import home
from registry.ledger import Ledger
from registry.promotion.champion import decide, match
from registry.store import Store
from registry.tracking import Tracker
from tasks.spec import Task
from tests.registry.promotion_helpers import World, mood_splits
from tests.registry.registry_helpers import TASK, finish, folder_of, make_spec, trained_outcome
from tests.registry.tracking_helpers import log_trial

ROOT = Path(__file__).parents[2]
START_SECONDS = 240  # on a machine that does other work


def made(folder, task="mood", seed=0, shape=None, **metadata):
    """A trained adapter of a task on a backbone."""
    backbone = shared_backbone(str(folder))
    about = {"task": task, "backbone": str(folder), "backbone_id": backbone.weights_id}
    spec = make_spec(**about, seed=seed, adapter=shape or {"m": 4, "r": 2, "s": 64})
    return trained_outcome(home() / "made", spec, d=16, metadata={"backbone_id": backbone.weights_id, **metadata})


def make_champion(outcome, template=TASK.template):
    """Let an adapter be the champion of its task, whatever was before."""
    task = outcome.spec.task
    known = TASK if task == "mood" and template == TASK.template else _task(task, template)
    world = World(Ledger.open(), Store.open(), Tracker(), {task: known}, {task: mood_splits(60)})
    finish(world.ledger, outcome, log_trial(world.tracker, outcome, folder_of(outcome)))
    return world, decide(world, match(world, outcome, ()), {}).model


def _task(name, template):
    about = {"description": f"Of {name}.", "license": "CC0-1.0", "template": template}
    body = about | {"verbalizer": {"pos": "good", "neg": "bad"}, "source": {"kind": "file", "path": "x.csv"}}
    if "{text}" not in template:
        body["source"] |= {"columns": {"premise": "premise", "hypothesis": "hypothesis"}}
        body["source"].pop("text", None)
    return Task.build(name, body, "test")


def readme_command(model, uri, port, *options):
    """The command that the README shows, for another model, registry and port; "" where it shows none."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^    (PATH=.*?mlflow models serve[^\n]*)$", text, re.M | re.S)[1].replace("\\\n", " ")
    for old, new in (
        ("$PWD/.venv/bin", str(Path(sys.executable).parent)),
        ("sqlite:///$PWD/.dept/mlflow.db", uri),
        ("-p 5001", " ".join(("-p", str(port), *options))),
    ):
        assert old in shown, shown
        shown = shown.replace(old, new)
    return re.sub(r"models:/\S+@", f"models:/{model}@", shown)


@contextlib.contextmanager
def served(model, uri, timeout=60, **environment):
    """The README's `mlflow models serve`, from a shell with nothing of this environment on its PATH."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env = kept | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    log = home() / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", readme_command(model, uri, port, "-t", str(timeout))],
            stdout=out,
            stderr=out,
            env=env,
            cwd=home(),
            start_new_session=True,
        )
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url, body, kind="application/json"):
    """Status and body of an answer."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/invocations", data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
