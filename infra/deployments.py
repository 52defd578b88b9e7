"""The deployments of a prefect.yaml: which there are, and putting them on the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.processes import tail
from infra.settings import home


def names(file: Path) -> list[str]:
    """Names of the deployments, without those of their flows."""
    return [str(one.get("name")) for one in _blocks(file)]


def first(file: Path) -> str:
    """The first deployment as `prefect deployment run` takes it: flow/name."""
    block = next(iter(_blocks(file)), {})
    flow = str(block.get("entrypoint", "")).rpartition(":")[2].replace("_", "-")
    return f"{flow}/{block.get('name')}"


def deploy(file: Path, root: Path, env: Mapping[str, str], timeout: float) -> str | None:
    """Put all of them on the server that `env` names.

    Args:
        root: working directory; entrypoints are relative to it.
        timeout: seconds.

    Returns:
        None, or what went wrong with the last lines of its log.
    """
    log = home() / "logs" / "deploy.log"
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
    return f"deploying {file} failed ({fault}); {log} ends:\n{tail(log, 25)}" if fault else None


def _blocks(file: Path) -> list[dict[str, Any]]:
    body = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return list(body.get("deployments") or [])
