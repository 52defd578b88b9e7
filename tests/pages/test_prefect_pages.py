"""What people see of a plan in Prefect."""

import pytest

from infra.prefect_api import client


@pytest.fixture(scope="module")
def runs(site):
    """Flow runs by the name of their flow."""
    with client(site.api) as asked:
        flows = {flow.id: flow.name for flow in asked.read_flows()}
        return {flows[run.flow_id]: run for run in asked.read_flow_runs()}


def test_runs_are_named_after_the_plan(browser, site):
    said = browser.read(f"{site.prefect}/runs", "opinions worker 1", name="prefect-runs", wait=2).splitlines()
    assert {"dept-transfer", "dept-work", "control", "gpu"} <= set(said)


def test_a_controllers_run_shows_stages_workers_and_what_came_of_it(browser, site, runs):
    page = f"{site.prefect}/runs/flow-run/{runs['dept-transfer'].id}"
    said = browser.read(page, "Completed", name="prefect-run", wait=3)
    assert "opinions" in said
    found = {}
    for tab in ("Task Runs", "Subflow Runs", "Artifacts", "Parameters"):
        browser.page.get_by_text(tab, exact=True).first.click()
        found[tab] = browser.look(f"prefect-run-{tab.split()[0].lower()}", 1.5)
    assert "opinions: sources (2 trials)" in found["Task Runs"]
    assert "opinions worker 1" in found["Subflow Runs"]
    assert "dept-transfer" in found["Artifacts"]
    assert "best-source" in found["Parameters"]


def test_a_workers_run_shows_its_stacks(browser, site, runs):
    page = f"{site.prefect}/runs/flow-run/{runs['dept-work'].id}"
    browser.read(page, "Completed", name="prefect-worker", wait=3)
    browser.page.get_by_text("Task Runs", exact=True).first.click()
    assert "opinions: 2 sources: food, service" in browser.look("prefect-worker-tasks", 1.5)


def test_artifacts(browser, site):
    browser.read(f"{site.prefect}/artifacts", "lineage-opinions", name="prefect-artifacts", wait=3)
    browser.read(f"{site.prefect}/artifacts/key/lineage-opinions", "opinions", name="prefect-lineage", wait=4)


def test_the_form_explains_a_plan(browser, site, runs):
    page = f"{site.prefect}/deployments/deployment/{runs['dept-transfer'].deployment_id}/run"
    said = browser.read(page, "Backbone", name="prefect-form", wait=2)
    assert "frozen model: catalogue name, hub id or local folder" in said
    assert "short name of the plan" in said


def test_pools_and_deployments(browser, site):
    said = browser.read(f"{site.prefect}/work-pools", "control", name="prefect-pools", wait=2)
    assert "gpu" in said
    said = browser.read(f"{site.prefect}/deployments", "fewshot", name="prefect-deployments", wait=2)
    assert {"nightly", "worker"} <= set(said.splitlines())
