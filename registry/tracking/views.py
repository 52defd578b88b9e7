"""How MLflow's table of runs opens: with the scores of trials side by side, not as one folded line without numbers.

MLflow keeps a saved view in a tag of its experiment and opens it by a key in the address; no page of MLflow's documents
says how, so this was read off a view that its page had saved (MLflow 3.17).
"""

from __future__ import annotations

import json
from typing import Any

from infra.mlflow_page import VIEW

_TAG = f"mlflow.sharedViewState.{VIEW}"
_COLUMNS = (
    *("params.`task`", "params.`k`", "params.`seed`", "params.`method`", "params.`start`", "params.`source`"),
    *("metrics.`test/accuracy`", "metrics.`test/score`", "metrics.`validation/loss`"),  # score: of other metrics alone
)
_STATE: dict[str, Any] = {
    "searchFilter": "tags.role = 'target'",  # with a filter, the rows of trials do not hide below their flow run's
    "orderByKey": "params.`task`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": list(_COLUMNS),
    "columnOrder": [],
    "columnWidths": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}


def saved_views() -> dict[str, str]:
    """Tags for the experiment: the views that its page offers, by what MLflow calls them."""
    made = {"name": "Targets: scores", "createdAt": 0, "updatedAt": 0, "state": json.dumps(_STATE)}
    return {_TAG: json.dumps(made)}
