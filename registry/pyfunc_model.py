"""What MLflow stores and runs as the model's code, so that no object is pickled. torch is loaded when a model is."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class DeptModel(PythonModel):
    """Answers from one adapter, the model's one artifact; see `registry.serving.Predictor`."""

    predictor: Any

    def load_context(self, context: Any) -> None:
        """Load the adapter (its sha256 is checked) and the process's backbone."""
        try:
            from registry.serving import Predictor, load_adapter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error}. This model runs on the package dept-transfer. Remedy: install its repository into this "
                "environment and serve with --env-manager local"
            ) from error
        self.predictor = Predictor(load_adapter(context.artifacts["adapter"]))

    # Every input of `Predictor.predict` is right. The hint says less, because MLflow warns where there is none and
    # turns any but this one into a narrower check of its own.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `Predictor.predict`."""
        found: pd.DataFrame = self.predictor.predict(model_input)
        return found


set_model(DeptModel())
