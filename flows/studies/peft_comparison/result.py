"""A result in the benchmark's JSON layout.

Source: log_results of https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/utils.py, and the
files of https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA/results.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch

from flows.studies.peft_comparison.protocol import Settings
from flows.studies.peft_comparison.rows import SOURCES
from infra.files import write_text

PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")


def result(
    settings: Settings, run: dict[str, Any], train: dict[str, Any], metrics: list[dict[str, Any]], accelerator: str
) -> dict[str, Any]:
    """The whole layout.

    Args:
        run: created_at (ISO 8601, UTC), total_time (s). train: memory and file_size (bytes), train_time (s), numbers.
        metrics: of each validation, and at last of the test.
        accelerator: name of the device.
    """
    shape = settings.adapter.model_dump(mode="json")
    peft_config = {
        "task_type": "CAUSAL_LM",
        "peft_type": "DEPT",
        "base_model_name_or_path": settings.backbone,
        "inference_mode": False,
        **shape,
        "prompt_text": settings.prompt_text,
    }
    return {
        "run_info": {
            **run,
            "experiment_name": settings.experiment,
            "peft_branch": f"dept-transfer {_version('dept-transfer')}",  # it is no run of theirs
            "train_config": settings.train_config(),
            "peft_config": peft_config,
            "error_msg": "",
        },
        "train_info": {**train, "status": "success", "metrics": metrics},
        "meta_info": {
            "model_info": _told("model_info", settings.backbone),
            "dataset_info": {name: _told("dataset_info", SOURCES[name].repo) for name in ("metamath", "gsm8k")},
            "package_info": {
                key: found
                for name in PACKAGES
                for key, found in ((f"{name}-version", _version(name)), (f"{name}-commit-hash", None))
            },
            "system_info": {
                "system": platform.system(),
                "release": platform.release(),
                "version": platform.version(),
                "machine": platform.machine(),
                "processor": platform.processor(),
                "accelerator": accelerator,
            },
            "pytorch_info": torch.__config__.show(),
        },
    }


def write_result(folder: Path, settings: Settings, body: dict[str, Any]) -> Path:
    """Write <method>--<name>.json; returns its path."""
    path = folder / f"{settings.experiment.replace('/', '--')}.json"
    write_text(path, json.dumps(body, indent=2) + "\n")
    return path


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _told(kind: str, repo: str) -> dict[str, str | None]:
    """Commit and date of a repository of the hub; nothing where the hub is out of reach, or it is a local folder."""
    found = None
    if not Path(repo).exists():
        from huggingface_hub import HfApi

        try:
            found = getattr(HfApi(), kind)(repo, timeout=10)
        except Exception:  # the client raises many kinds
            found = None
    created = getattr(found, "created_at", None)
    return {"sha": getattr(found, "sha", None), "created_at": created.isoformat() if created else None}
