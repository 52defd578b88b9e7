"""`dept transfer-matrix` and `dept run --results`, end to end on a tiny backbone."""

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from flows.cli import main as cli
from registry.ledger import Ledger


def test_every_source_against_every_target(prefect_url, make_plan):
    found = CliRunner().invoke(cli.app, ["transfer-matrix", str(make_plan(seeds=[0]))])
    assert found.exit_code == 0, found.output
    image = found.output.split("Heat map: ")[1].strip().replace("\n", "")
    with Path(image).open("rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    starts = {(r.task, r.trial_spec.variant, r.shots) for r in Ledger.open().find(role="target")}
    for target in ("film", "plot"):
        for source in ("food", "service"):
            assert {(target, f"source:{source}", 4), (target, f"source:{source}", None)} <= starts
    zero = [r for r in Ledger.open().find(role="target") if r.trial_spec.init == "source" and r.shots is None]
    assert {(r.outcome["steps_done"], bool(r.outcome["test"])) for r in zero} == {(0, True)}
    by_sha = {r.adapter_sha256: r.task for r in Ledger.open().find(role="source")}
    assert all(by_sha[r.trial_spec.source_sha256] == r.trial_spec.source_task for r in zero)


def test_a_matrix_needs_sources(make_plan):
    path = make_plan(sources=[], strategies=["scratch"])
    found = CliRunner().invoke(cli.app, ["transfer-matrix", str(path)])
    assert found.exit_code == 2
    assert "needs sources" in found.output


def test_results_hold_scores_commit_and_rates(prefect_url, make_plan, tmp_path):
    path = make_plan(rates={"dept": [0.01, 0.05]})
    found = CliRunner().invoke(cli.app, ["run", str(path), "--results", str(tmp_path / "results")])
    assert found.exit_code == 0, found.output
    body = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert {"commit", "versions", "machine", "date", "rates", "left_out_of_sources"} <= body.keys()
    assert body["rates"]["dept"][0] in (0.01, 0.05)
    assert 0 < body["rates"]["dept"][1] < 0.01  # the share that the recipe gives A and B
    assert body["search_trials"] == 2 * len(body["plan"]["targets"])
    # With one strategy there is nothing to choose from: it is the transfer.
    cells = {(row["target"], row["variant"]): row for row in body["rows"]}
    assert {variant for _, variant in cells} == {"untrained", "scratch", "transfer"}
    assert cells["film", "scratch"]["seeds"] == [0, 1]
    assert yaml.safe_load(path.read_text())["name"] == body["plan_name"]
    assert (tmp_path / "results" / "tiny.png").stat().st_size > 1000
