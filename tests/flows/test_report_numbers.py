"""report.json as 0.1.0 wrote it, and a report without torch."""

import json
import os
import subprocess
import sys

import pytest

from flows.reporting.html import load_outcomes, write_report
from flows.reporting.summary import summary_rows
from tests.flows.report_helpers import no_plots, two_targets  # noqa: F401


@pytest.mark.usefixtures("no_plots")
def test_a_report_of_the_first_version_is_read(tmp_path):
    outcomes = two_targets()
    write_report(tmp_path, "old", {}, outcomes)
    body = json.loads((tmp_path / "report.json").read_text())
    for item in body["outcomes"]:
        item["adapter_folder"] = f"/somewhere/.dept/{item.pop('adapter_key').rsplit('/', 1)[0]}"
        del item["validation_loss_curve"]
        for new in ("kind", "dtype", "start", "sources", "row_ids", "schema_version"):
            item["spec"].pop(new, None)
    (tmp_path / "report.json").write_text(json.dumps(body))
    found = load_outcomes(tmp_path)
    assert [o.test for o in found] == [o.test for o in outcomes]
    assert found[0].adapter_key.startswith("adapters/")
    assert len(found[0].adapter_key) == len("adapters/") + 64
    assert found[0].validation_loss_curve == []
    assert summary_rows(found)[0].gain == pytest.approx(11.0)


def test_a_report_needs_no_torch(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows.reporting.html import write_report\n"
        "from tests.flows.report_helpers import two_targets\n"
        f"write_report(Path({str(tmp_path)!r}), 'x', {{}}, two_targets())\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})  # noqa: PTH109
