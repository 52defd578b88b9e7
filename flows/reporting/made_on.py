"""What a report was made with: packages and machine. No host or user name: reports get passed on. Needs no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import psutil

PACKAGES = ("dept-transfer", "torch", "transformers", "prefect", "mlflow", "sqlalchemy", "deepspeed", "safetensors")
GIB = 1024**3


def versions() -> dict[str, str]:
    """Python and the packages that decide a run's numbers, by name; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """The machine that wrote the report, in a few words; where trials were trained is in their provenance."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
    }
