"""The pyfunc model that MLflow stores for an adapter: code by name, pinned requirements, no pickle, no torch here."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from infra.errors import InputError
from registry.store import SUMS
from registry.tracking import Tracker

MODEL_PATH = "model"
ADAPTER_PATH = "artifacts/adapter"  # inside the model
MANIFESTS = ("adapter.json", "ensemble.json", "baseline.json")  # of one adapter, several, or a linear baseline
_CODE = Path(__file__).parents[1] / "pyfunc_model.py"
_NEEDED = ("mlflow", "torch", "transformers", "safetensors", "scikit-learn", "pandas", "pydantic")


def log_model(tracker: Tracker, run_id: str, adapter_folder: Path) -> str:
    """Store a pyfunc model of an adapter with a run.

    Returns:
        URI of the stored model, the source of a model version.

    Raises:
        InputError: an adapter without a manifest, or a store that does not answer.
    """
    manifest = next((name for name in MANIFESTS if (adapter_folder / name).is_file()), MANIFESTS[0])
    try:
        metadata = json.loads((adapter_folder / manifest).read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"adapter {adapter_folder}: {manifest} is missing or damaged ({error})") from error
    with tempfile.TemporaryDirectory() as scratch:
        copy, saved = Path(scratch) / "adapter", Path(scratch) / MODEL_PATH
        shutil.copytree(adapter_folder, copy, ignore=shutil.ignore_patterns(SUMS))
        logger = logging.getLogger("mlflow.pyfunc")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow asks for type hints and an input example
                save_model(
                    path=str(saved),
                    python_model=str(_CODE),
                    artifacts={"adapter": str(copy)},
                    pip_requirements=requirements(),
                    # Inputs stay open: a list of texts and a table of fields are both right.
                    signature=ModelSignature(outputs=Schema(_columns(metadata))),
                    mlflow_model=Model(artifact_path=MODEL_PATH, run_id=run_id),
                )
        finally:
            logger.setLevel(level)
        tracker.ask("log_artifacts", run_id, str(saved), MODEL_PATH)
    return f"{tracker.ask('get_run', run_id).info.artifact_uri}/{MODEL_PATH}"


def answer_columns(labels: tuple[str, ...]) -> dict[str, str]:
    """Label -> its column in the table of answers; a class called `label` gives way to the answer's column."""
    names: dict[str, str] = {}
    for label in labels:
        name = label
        while name == "label" or name in names.values() or (name != label and name in labels):
            name = f"{name}_"
        names[label] = name
    return names


def requirements() -> list[str]:
    """What the stored model needs, pinned to what is installed; given, since inferring them takes seconds.

    dept-transfer itself is not named: it is on no index, and a stranger's package of that name must never be installed.
    """
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in _NEEDED]


def _columns(metadata: dict[str, list[str]]) -> list[ColSpec | TensorSpec]:
    labels = tuple(str(label) for label in metadata.get("labels", ())) if metadata.get("words") else ()
    doubles = [ColSpec(DataType.double, name) for name in answer_columns(labels).values()]
    return [ColSpec(DataType.string, "label"), *doubles]
