"""What MLflow stores and runs as the model's code, so that no object is pickled. torch is loaded when a model is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

# The code that the model was stored with; before it is on the path nothing of ours is there to import.
_OWN = Path(__file__).parent / "code" / "dept_transfer.zip"


class DeptModel(PythonModel):
    """Answers from one adapter, the model's one artifact; see `registry.serving.served.TaskModel`."""

    model: Any

    def load_context(self, context: Any) -> None:
        """Load the adapter (its sha256 is checked) and the process's backbone."""
        if _OWN.is_file():
            sys.path.insert(0, str(_OWN))
        from registry.serving.predictor import Predictor, load_adapter
        from registry.serving.served import TaskModel

        self.model = TaskModel(Predictor(load_adapter(context.artifacts["adapter"])))

    # The hint says less than is taken, because MLflow turns any but this one into a narrower check of its own.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `TaskModel.table`."""
        found: pd.DataFrame = self.model.table(model_input)
        return found


set_model(DeptModel())
