"""The deployments of a prefect.yaml: which there are, how they look for a kind of pool, putting them on a server."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from infra.crash_automation import ensure_after_crash, ensure_crash_automation
from infra.prefect_api import ensure_pools, kept_by_hand
from infra.processes import tail
from infra.settings import home

Kind = Literal["process", "docker", "kubernetes"]
KINDS: Sequence[Kind] = ("process", "docker", "kubernetes")
IMAGE, IMAGE_FOLDER = "dept-transfer", "/app"  # of infra/Dockerfile
DEPLOY_SECONDS = 300.0


def names(file: Path) -> list[str]:
    """Names of the deployments, without those of their flows."""
    return [str(one.get("name")) for one in _blocks(_read(file))]


def first(file: Path) -> str:
    """The first deployment as `prefect deployment run` takes it: flow/name."""
    block = next(iter(_blocks(_read(file))), {})
    flow = str(block.get("entrypoint", "")).rpartition(":")[2].replace("_", "-")
    return f"{flow}/{block.get('name')}"


def rendered(file: Path, kind: Kind = "process", image: str = IMAGE, env: Mapping[str, str] | None = None) -> str:
    """The deployments as pools of a kind take them, as YAML.

    Process: as they are; Prefect notes the folder in which they were deployed, and flows run there. Docker and
    kubernetes: the code is the image's, wherever this is called.

    Args:
        image: of the containers. env: variables of theirs; a value may be a block: {{ prefect.blocks.secret.NAME }}.
    """
    body = copy.deepcopy(_read(file))
    if kind != "process":
        body["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_FOLDER}}]
        for block in _blocks(body):
            pool = dict(block["work_pool"])
            usual = pool.get("job_variables", {})
            pool["job_variables"] = {**usual, "image": image, "env": {**usual.get("env", {}), **(env or {})}}
            block["work_pool"] = pool
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)


def put(
    api: str | None,
    file: Path,
    root: Path,
    environment: Mapping[str, str],
    *,
    kind: Kind = "process",
    image: str = IMAGE,
    env: Mapping[str, str] | None = None,
    templates: Mapping[str, dict[str, Any]] | None = None,
    timeout: float = DEPLOY_SECONDS,
) -> str | None:
    """Pools, deployments and automations on a server: made where they are missing, else brought up to date.

    What a person has set there stays: limits, what is paused, schedules and automations that are off.

    Args:
        api: URL of the server's API; None: the one that Prefect is set to.
        root: working directory; entrypoints are relative to it.
        environment: of the process that deploys; it names the server.
        templates: base job templates by pool. kind, image, env: see `rendered`.

    Returns:
        None, or what went wrong with the last lines of its log.

    Raises:
        ConnectionError: the server does not answer or refuses.
    """
    ensure_pools(api, kind, templates)
    ensure_crash_automation(api)
    with kept_by_hand(api, names(file)), tempfile.TemporaryDirectory(prefix="dept-deploy-") as folder:
        ready = Path(folder) / file.name
        ready.write_text(rendered(file, kind, image, env), encoding="utf-8")
        fault = deploy(ready, root, environment, timeout)
    if fault is None:
        ensure_after_crash(api)
    return fault


def deploy(file: Path, root: Path, env: Mapping[str, str], timeout: float) -> str | None:
    """Put the deployments of a file, as it stands, on the server that `env` names.

    Args:
        root: working directory; entrypoints are relative to it.
        timeout: seconds.

    Returns:
        None, or what went wrong with the last lines of its log.
    """
    log = home() / "logs" / "deploy.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                env=env,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            fault = f"exit code {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            fault = f"not done within {timeout:g} s"
    return f"deploying {file.name} failed ({fault}); {log} ends:\n{tail(log, 25)}" if fault else None


def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    return list(body.get("deployments") or [])
