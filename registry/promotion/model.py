"""The pyfunc models that MLflow stores: of an adapter, and of a backbone for all its tasks. No pickle, no torch here.

A stored model holds its code, the requirements that its code needs, a signature and an example, so that a clean
environment can serve it.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import re
import shutil
import string
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

from infra.errors import InputError
from registry.store import SUMS
from registry.tracking import Tracker
from registry.tracking.datasets import MANIFESTS
from tasks.picture_reader import plain_picture

ADAPTER_PATH = "artifacts/adapter"  # inside the model
TASK, PICTURE, ERROR = "task", "picture", "error"  # columns of the served models
CODE = "dept_transfer.zip"  # inside the model, in `code`
_ROOT = Path(__file__).parents[2]
_ROOMS = ("infra", "tasks", "dept", "registry")
_CODE = _ROOT / "registry"
# What the code of a served model imports; what is not of it (mlflow, which serves it) as well.
_NEEDED = (
    *("mlflow", "torch", "transformers", "safetensors", "scikit-learn", "scipy", "pandas", "numpy", "pydantic"),
    *("pydantic-settings", "sqlalchemy", "alembic", "tenacity", "filelock", "fsspec", "psutil", "platformdirs"),
    *("gguf", "accelerate", "pyyaml", "pillow"),
)


@dataclass(frozen=True)
class Logged:
    """What a LoggedModel says beside its files.

    Attributes:
        name: of the LoggedModel; the registered model's. tags, params, metrics: its own.
        step: of the run at which it stood.
    """

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0


def log_model(
    tracker: Tracker,
    run_id: str,
    adapter_folder: Path,
    about: Logged | None = None,
) -> LoggedModel:
    """Store a pyfunc model of an adapter as a LoggedModel, an output of its run.

    Returns:
        The LoggedModel; its `artifact_location` is the source of a model version.

    Raises:
        InputError: an adapter without a manifest, or a store that does not answer.
    """
    manifest = next((name for name in MANIFESTS if (adapter_folder / name).is_file()), MANIFESTS[0])
    try:
        metadata = json.loads((adapter_folder / manifest).read_text(encoding="utf-8"))["metadata"]
        sees = _sees(adapter_folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"adapter {adapter_folder}: {manifest} is missing or damaged ({error})") from error
    fields = fields_of(str(metadata.get("template", "{text}")))
    pictures = (picture_column(fields),) if sees else ()
    labels = tuple(str(label) for label in metadata.get("labels", ())) if metadata.get("words") else ()
    doubles = [ColSpec(DataType.double, name, required=False) for name in answer_columns(labels).values()]
    signature = ModelSignature(
        Schema([_text(name) for name in (*fields, *pictures)]), Schema([_text("label"), *doubles, _text(ERROR)])
    )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "adapter"
        shutil.copytree(adapter_folder, copy, ignore=shutil.ignore_patterns(SUMS))
        row = {name: f"An example of a {name}." for name in fields} | dict.fromkeys(pictures, example_picture())
        return _log(
            tracker, run_id, about or Logged("adapter"), "pyfunc_model.py", {"adapter": str(copy)}, signature, row
        )


def log_backbone_model(
    tracker: Tracker, run_id: str, about: Logged, served: Mapping[str, str], fields: Sequence[str], task: str
) -> LoggedModel:
    """Store the pyfunc model that answers for every task of a backbone.

    Args:
        served: what it is to serve: `backbone` (name or path) and `backbone_id`.
        fields: columns of all tasks that it may be asked for. task: one of them, for the example.

    Raises:
        InputError: a store that does not answer.
    """
    outputs = [
        _text("label"),
        ColSpec(DataType.double, "probability", required=False),
        ColSpec(Map(DataType.double), "probabilities", required=False),
        _text("model"),
        _text(ERROR),
    ]
    signature = ModelSignature(Schema([_text(TASK), *map(_text, fields)]), Schema([_text(TASK), *outputs]))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "served.json"
        file.write_text(json.dumps(dict(served), indent=1), encoding="utf-8")
        row = {TASK: task} | {name: f"An example of a {name}." for name in fields[:1]}
        return _log(tracker, run_id, about, "pyfunc_backbone.py", {"served": str(file)}, signature, row)


def _sees(adapter_folder: Path) -> bool:
    """Whether an adapter, or one of several that answer together, sees a row's picture."""
    files = [file for name in MANIFESTS for file in adapter_folder.rglob(name)]
    return any(json.loads(file.read_text(encoding="utf-8"))["metadata"].get("picture") for file in files)


def example_picture() -> str:
    """A picture as a request holds one: a data: URI of 8 x 8 pixels."""
    return f"data:image/png;base64,{base64.b64encode(plain_picture(side=8).payload).decode()}"


def _text(name: str) -> ColSpec:
    """A column of texts. It may be missing: our own code says so, by row, where MLflow would refuse the whole table."""
    return ColSpec(DataType.string, name, required=False)


def _log(
    tracker: Tracker,
    run_id: str,
    about: Logged,
    code: str,
    artifacts: dict[str, str],
    signature: ModelSignature,
    example: Mapping[str, str],
) -> LoggedModel:
    """Make a LoggedModel, upload its files, and say last that it is ready."""
    request = uuid.uuid4().hex
    made: LoggedModel = tracker.ask(
        "create_logged_model",
        tracker.experiment_id,
        name=re.sub(r"""[/:.%"']""", "-", about.name),  # such as llama-3.2: MLflow refuses these here
        source_run_id=run_id,
        tags={**about.tags, "request": request},
        params=dict(about.params),
        model_type="dept-transfer",
        found=lambda: next(iter(logged_models(tracker, "request", request)), None),
    )
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "model"
        model = Model(artifact_path=made.artifact_location, run_id=run_id, model_id=made.model_id)
        with _quietly():
            save_model(
                path=str(saved),
                python_model=str(_CODE / code),
                code_paths=[_packed()],
                artifacts=artifacts,
                pip_requirements=requirements(),
                signature=signature,
                input_example=pd.DataFrame([dict(example)]),
                mlflow_model=model,
            )
        tracker.ask("log_model_artifacts", made.model_id, str(saved))
    tracker.ask("finalize_logged_model", made.model_id, "READY")
    tracker.ask("log_outputs", run_id, [LoggedModelOutput(made.model_id, about.step)])
    if about.metrics:
        at, step, of = made.creation_timestamp, about.step, made.model_id
        tracker.ask("log_batch", run_id, [Metric(key, value, at, step, of) for key, value in about.metrics.items()])
    return made


@functools.cache
def _packed() -> str:
    """A zip of the rooms that a served model runs on, their Python alone: one file, where 170 would be uploaded."""
    folder = Path(tempfile.mkdtemp(prefix="dept-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(folder / CODE, "w", zipfile.ZIP_DEFLATED) as packed:
        for room in _ROOMS:
            for file in sorted((_ROOT / room).rglob("*.py")):
                entry = zipfile.ZipInfo(str(file.relative_to(_ROOT)))  # of no time, so that equal code is an equal file
                packed.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return str(folder / CODE)


def code_sha256() -> str:
    """Of the code that a model is stored with now."""
    return hashlib.sha256(Path(_packed()).read_bytes()).hexdigest()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """MLflow asks for type hints, which our inputs do not fit."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def logged_models(tracker: Tracker, tag: str, value: str) -> list[LoggedModel]:
    """LoggedModels with a tag."""
    found = tracker.ask("search_logged_models", [tracker.experiment_id], f"tags.`{tag}` = '{value}'")
    return list(found)


def is_whole(tracker: Tracker, model_id: str) -> bool:
    """Whether a LoggedModel and its files are still there."""
    try:
        files = tracker.ask("list_logged_model_artifacts", model_id)
    except MlflowException:
        return False
    return any(file.path.endswith("MLmodel") for file in files)


def fields_of(template: str) -> tuple[str, ...]:
    """Fields of a template, in its order."""
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    return tuple(dict.fromkeys(names))


def picture_column(fields: Sequence[str]) -> str:
    """The column that a row's picture stands in: `picture`; where a field is called so, it gives way."""
    name = PICTURE
    while name in fields:
        name = f"{name}_"
    return name


def answer_columns(labels: tuple[str, ...]) -> dict[str, str]:
    """Label -> its column in the table of answers; a class called as another column of it gives way."""
    names: dict[str, str] = {}
    for label in labels:
        name = label
        while name in ("label", ERROR) or name in names.values() or (name != label and name in labels):
            name = f"{name}_"
        names[label] = name
    return names


def requirements() -> list[str]:
    """What the stored model needs, pinned to what is installed; given, since inferring them takes seconds.

    dept-transfer itself is not named, since it is on no index: its code lies in the model.
    """
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in _NEEDED]
