"""What people see of a plan in Prefect."""

import pytest

from infra.prefect_api import client


@pytest.fixture(scope="module")
def runs(site):
    """Flow runs by the name of their deployment's flow."""
    with client(site.api) as asked:
        flows = {flow.id: flow.name for flow in asked.read_flows()}
        return {flows[run.flow_id]: run for run in asked.read_flow_runs()}


def test_runs(browser, site):
    said = browser.read(f"{site.prefect}/runs", "opinions", name="prefect-runs", wait=2)
    assert "dept-transfer" in said
    assert "dept-work" in said


def test_flow_run(browser, site, runs):
    run = runs["dept-transfer"]
    page = f"{site.prefect}/runs/flow-run/{run.id}"
    said = browser.read(page, "Completed", name="prefect-run", wait=3)
    assert "opinions" in said
    for tab in ("Task Runs", "Subflow Runs", "Artifacts", "Details", "Parameters"):
        browser.page.get_by_text(tab, exact=True).first.click()
        browser.look(f"prefect-run-{tab.split()[0].lower()}", 1.5)


def test_worker_run(browser, site, runs):
    run = runs["dept-work"]
    said = browser.read(f"{site.prefect}/runs/flow-run/{run.id}", "Completed", name="prefect-worker", wait=3)
    assert "opinions" in said


def test_artifacts(browser, site):
    said = browser.read(f"{site.prefect}/artifacts", "Artifacts", name="prefect-artifacts", wait=3)
    assert "dept" in said


def test_form(browser, site, runs):
    run = runs["dept-transfer"]
    said = browser.read(
        f"{site.prefect}/deployments/deployment/{run.deployment_id}/run", "Backbone", name="prefect-form", wait=2
    )
    assert "plan" in said.lower()


def test_pools_and_deployments(browser, site):
    said = browser.read(f"{site.prefect}/work-pools", "control", name="prefect-pools", wait=2)
    assert "gpu" in said
    said = browser.read(f"{site.prefect}/deployments", "fewshot", name="prefect-deployments", wait=2)
    assert "worker" in said


def test_events(browser, site):
    browser.read(f"{site.prefect}/events", "Events", name="prefect-events", wait=3)
