"""The code of the model that answers for all tasks of a backbone, as `pyfunc_model` is that of one task."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

# The code that the model was stored with; before it is on the path nothing of ours is there to import.
_OWN = Path(__file__).parent / "code" / "dept_transfer.zip"


class AllTasks(PythonModel):
    """Answers from the champions of a backbone; see `registry.serving.served.BackboneModel`."""

    model: Any

    def load_context(self, context: Any) -> None:
        """Load the backbone, and its champions from the MLflow of this process ($MLFLOW_TRACKING_URI)."""
        if _OWN.is_file():
            sys.path.insert(0, str(_OWN))
        from registry.serving.roster import Roster
        from registry.serving.served import BackboneModel
        from registry.tracking import Tracker

        served = json.loads(Path(context.artifacts["served"]).read_text(encoding="utf-8"))
        self.model = BackboneModel(Roster(Tracker(patience=2.0), served["backbone"], served["backbone_id"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """See `BackboneModel.table`."""
        found: pd.DataFrame = self.model.table(model_input)
        return found


set_model(AllTasks())
