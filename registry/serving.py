"""Answers from trained adapters, directly or as an MLflow pyfunc model. One backbone in a process serves every task."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import string
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, Schema

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.backbones.loading import errors_alone
from dept.backbones.shared import shared_backbone
from dept.engine.evaluate import Request, score
from dept.engine.generate import ANSWER_TOKENS, Prompted, generate
from infra.errors import InputError
from tasks.plain import normalise

if TYPE_CHECKING:
    from registry.tracking import Tracker

CHAMPION = "champion"
MODEL_PATH = "model"
ADAPTER_PATH = "model/artifacts/adapter"
_NEEDED = ("mlflow", "torch", "transformers", "safetensors", "pandas", "pydantic")


def model_name(backbone: str, task: str) -> str:
    """Name of the registered model of a task: dept-<backbone>-<task>; a path or hub id gives its last part."""
    short = re.sub(r"[^a-z0-9._-]+", "-", Path(backbone).name.lower()).strip("-")
    return f"dept-{short}-{task}"


class Predictor:
    """One adapter on its backbone, with the template and the verbalizer it was trained with.

    Args:
        adapter: its metadata names backbone, template, labels and words.
        backbone: default the one the adapter was trained on, shared by the whole process.

    Raises:
        InputError: metadata missing, or a backbone that the adapter does not fit.
    """

    def __init__(self, adapter: Adapter, backbone: Backbone | None = None) -> None:
        missing = [key for key in ("backbone", "template", "labels", "words") if key not in adapter.metadata]
        if missing:
            raise InputError(
                f"adapter: its metadata lack {', '.join(missing)}, so it cannot answer. Remedy: use an "
                "adapter that a trial wrote"
            )
        self.adapter = adapter
        self.template: str = adapter.metadata["template"]
        self.labels = tuple(adapter.metadata["labels"])
        self.words = tuple(adapter.metadata["words"])
        self.fields = tuple(
            dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None)
        )
        name, dtype = adapter.metadata["backbone"], adapter.metadata.get("dtype")
        self.backbone = backbone or shared_backbone(name, dtype)
        self.backbone.check_adapter(adapter)

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Answer texts.

        Args:
            inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings) that hold
                the fields of the template.

        Returns:
            One row per text: `label`, and the probability of each label (softmax of the words' log-probabilities);
            `label` alone, the answer, where the task is answered by generation.

        Raises:
            InputError: a field is missing, or an input is no text.
        """
        texts = [
            self.template.format(**{name: normalise(value) for name, value in row.items()})
            for row in _rows(inputs, self.fields)
        ]
        if not self.words:  # a task that is answered by generation
            written = generate(self.backbone, [self.adapter], [Prompted(text, 0) for text in texts], ANSWER_TOKENS)
            return pd.DataFrame({"label": pd.Series([text.strip() for text in written], dtype="str")})
        scores = score(self.backbone, [self.adapter], [Request(text, self.words, 0) for text in texts])
        table = torch.tensor(scores, dtype=torch.float64).reshape(len(texts), len(self.words)).softmax(1)
        answers = [self.labels[i] for i in table.argmax(1).tolist()]
        return pd.DataFrame(
            {
                "label": pd.Series(answers, dtype="str"),
                **{label: table[:, i].numpy() for i, label in enumerate(self.labels)},
            }
        )


class DeptModel(PythonModel):
    """The pyfunc model; its one artifact is the adapter's folder."""

    predictor: Predictor

    def load_context(self, context: Any) -> None:
        """Load the adapter (its sha256 is checked) and the process's backbone."""
        self.predictor = Predictor(Adapter.load(context.artifacts["adapter"]))

    # Every input of `Predictor.predict` is right. The hint says less, because MLflow warns where there is none and
    # turns any but this one into a narrower check of its own.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `Predictor.predict`."""
        return self.predictor.predict(model_input)


def log_model(tracker: Tracker, run_id: str, adapter_folder: Path) -> str:
    """Store a pyfunc model of an adapter with a run.

    Returns:
        URI of the stored model, the source of a model version.

    Raises:
        InputError: a damaged adapter, or a store that does not answer.
    """
    labels = Adapter.load(adapter_folder).metadata.get("labels", [])
    outputs = Schema([ColSpec(DataType.string, "label"), *(ColSpec(DataType.double, str(name)) for name in labels)])
    with tempfile.TemporaryDirectory() as scratch:
        copy, saved = Path(scratch) / "adapter", Path(scratch) / MODEL_PATH
        shutil.copytree(adapter_folder, copy)
        with warnings.catch_warnings(), errors_alone("mlflow.pyfunc"):
            warnings.simplefilter("ignore")  # MLflow asks for type hints and an input example
            save_model(
                path=str(saved),
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"adapter": str(copy)},
                pip_requirements=requirements(),
                # Inputs stay open: a list of texts and a table of fields are both right.
                signature=ModelSignature(outputs=outputs),
                mlflow_model=Model(artifact_path=MODEL_PATH, run_id=run_id),
            )
        tracker.ask("log_artifacts", run_id, str(saved), MODEL_PATH)
    return f"{tracker.ask('get_run', run_id).info.artifact_uri}/{MODEL_PATH}"


def requirements() -> list[str]:
    """What the stored model needs, pinned to what is installed; given, since inferring them takes seconds.

    dept-transfer itself is not named: it is on no index, and a stranger's package of that name must never be installed.
    """
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in _NEEDED]


def load_champion(task: str, backbone: str, tracker: Tracker | None = None) -> Predictor:
    """The champion of a task, ready to answer.

    Args:
        task: task name.
        backbone: name or path of the backbone, as in the plan.
        tracker: where to look; default the default store.

    Raises:
        InputError: no champion, or a damaged adapter.
    """
    from registry.promotion.champion import champion
    from registry.tracking import Tracker

    name = model_name(backbone, task)
    found = champion(tracker or Tracker(), name)
    if found is None:
        raise InputError(
            f"no champion of {name} yet. Remedy: run a plan with task {task} on backbone {backbone}, or "
            "name another backbone"
        )
    return Predictor(Adapter.load(found.adapter_folder))


def _rows(inputs: Any, fields: Sequence[str]) -> list[dict[str, str]]:
    """Inputs of any accepted shape as one mapping of the template's fields per row."""
    if isinstance(inputs, str):
        inputs = [inputs]
    if isinstance(inputs, (pd.Series, np.ndarray)):
        inputs = np.asarray(inputs, dtype=object).reshape(-1).tolist()
    if isinstance(inputs, Mapping):
        inputs = pd.DataFrame(
            dict(inputs)
            if all(isinstance(v, (list, tuple, np.ndarray, pd.Series)) for v in inputs.values())
            else [dict(inputs)]
        )
    if isinstance(inputs, pd.DataFrame):
        inputs = inputs.to_dict(orient="records")
    if not isinstance(inputs, Sequence):
        raise InputError(
            f"predict: {type(inputs).__name__} is no text. Remedy: give texts, or a table with the "
            f"column{'s' if len(fields) > 1 else ''} {', '.join(fields)}"
        )
    rows: list[dict[str, str]] = []
    for number, item in enumerate(inputs):
        if isinstance(item, str):
            if len(fields) != 1:
                raise InputError(
                    f"predict: this task reads {', '.join(fields)}, not one text. Remedy: give a table "
                    "with these columns"
                )
            item = {fields[0]: item}
        found = {name: item.get(name) for name in fields} if isinstance(item, Mapping) else {fields[0]: item}
        for name, value in found.items():
            if not isinstance(value, str):
                raise InputError(
                    f"predict: row {number}: {name} is {value!r}, not text. Remedy: give texts, or a "
                    f"table with the columns {', '.join(fields)}"
                )
        rows.append({name: str(value) for name, value in found.items()})
    return rows
