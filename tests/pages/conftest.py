"""A small plan, run as people run it, on real servers, and a browser that reads their pages and takes pictures.

$PAGES_FOLDER is the folder of the pictures; default: pytest's. Skips where chromium or playwright is missing.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.flows.conftest import block, write_task
from tests.flows.pool_helpers import served
from tests.servers import MlflowServer

ROOT = Path(__file__).parents[2]
NOUNS = ("food", "service", "film", "plot")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@dataclass
class Site:
    """Addresses of the servers, and the home of who ran the plan."""

    prefect: str
    mlflow: str
    home: Path

    @property
    def api(self):
        return f"{self.prefect}/api"


class Browser:
    """Opens pages one after the other."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder

    def read(self, url, *texts, name, seconds=30, wait=0.0):
        """Open a page, wait until it shows each of the texts, keep a picture; all that it says, one line each."""
        self.page.goto("about:blank")  # a change behind # alone would not load anew
        self.page.goto(url)
        for text in texts:
            self.page.get_by_text(text).first.wait_for(timeout=seconds * 1000)
        return self.look(name, wait)

    def look(self, name, wait=0.0):
        self.page.wait_for_timeout(500 + wait * 1000)
        self.page.screenshot(path=self.folder / f"{name}.png")
        return self.page.inner_text("body")


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="session")
def browser(chromium, tmp_path_factory):
    from playwright.sync_api import sync_playwright

    folder = Path(os.environ.get("PAGES_FOLDER") or tmp_path_factory.mktemp("pages"))
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = chrome.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(30_000)
        yield Browser(page, folder)
        chrome.close()


@pytest.fixture(scope="session")
def site(chromium, tmp_path_factory, tiny_folders):
    """Prefect and MLflow after a plan with two sources, two targets and a champion for each."""
    root = tmp_path_factory.mktemp("site")
    for seed, noun in enumerate(NOUNS):
        write_task(root / f"{noun}.csv", noun, seed)
    (root / "plan.yaml").write_text(yaml.safe_dump(plan(root, tiny_folders["llama"]), sort_keys=False))
    mlflow = MlflowServer(root)
    with contextlib.ExitStack() as stack:
        mlflow.start()
        stack.callback(mlflow.stop)
        prefect = stack.enter_context(prefect_server(root))
        home, api = root / "home", f"{prefect}/api"
        stores = {
            "DEPT_HOME": str(home),
            "MLFLOW_TRACKING_URI": mlflow.uri,
            "DEPT_PLAN_ROOTS": f"{root}:{tiny_folders['llama'].parent}",
        }
        env = {**os.environ, **stores, "PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}
        dept = [sys.executable, "-m", "flows.cli"]
        subprocess.run([*dept, "deploy"], env=env, cwd=root, check=True)
        stack.enter_context(served(api, root / "served.log", **stores))
        done = subprocess.run([*dept, "submit", "plan.yaml", "--watch"], env=env, cwd=root, check=False)
        assert done.returncode == 0, (root / "served.log").read_text()[-4000:]
        yield Site(prefect, mlflow.uri, home)


def plan(root, backbone):
    return {
        "name": "opinions",
        "backbone": str(backbone),
        "own_tasks": {noun: block(root / f"{noun}.csv") for noun in NOUNS},
        "sources": ["food", "service"],
        "targets": ["film", "plot"],
        "shots": [4],
        "seeds": [0, 1],
        "strategies": ["scratch", "best-source"],
        "test_rows": 10,
        "methods": ["dept"],
        "adapter": {"m": 4, "r": 2, "s": 24},
        "source_training": {"steps": 12, "batch_size": 4, "eval_every": 3},
        "scratch_training": {"steps": 8, "batch_size": 4, "eval_every": 2, "lr_prompt": 0.05},
        "transfer_training": {"steps": 8, "batch_size": 4, "eval_every": 2},
        "source_validation_rows": 8,
    }


@contextlib.contextmanager
def prefect_server(root):
    """A Prefect server with its pages, as `dept up` starts it; gives its address."""
    from infra.commands import environment, prefect_command
    from infra.prefect_api import answers

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, url = prefect_command(port)
    env = environment(
        PREFECT_HOME=str(root / "prefect"), PREFECT_SERVER_API_PORT=str(port), PREFECT_API_URL=f"{url}/api"
    )
    with (root / "prefect.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{url}/api"):
            assert process.poll() is None, (root / "prefect.log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
