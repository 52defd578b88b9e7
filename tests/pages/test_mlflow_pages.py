"""What people see of a plan in MLflow."""

import json
import urllib.request

import pytest

LANDS = "workflowType=machine_learning"


def page(site, experiment, run, part=""):
    return f"{site.mlflow}/#/experiments/{experiment}/runs/{run}{part}"


def ask(site, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{site.mlflow}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def experiment(site):
    found = ask(site, "experiments/search?max_results=10")["experiments"]
    return next(one["experiment_id"] for one in found if one["name"].startswith("dept"))


@pytest.fixture(scope="module")
def runs(site, experiment):
    return ask(site, "runs/search", {"experiment_ids": [experiment], "max_results": 100})["runs"]


def named(runs, word):
    return [run["info"]["run_id"] for run in runs if word in run["info"]["run_name"]]


def test_experiment(browser, site, experiment):
    said = browser.read(
        f"{site.mlflow}/#/experiments/{experiment}/runs?{LANDS}", "opinions", name="mlflow-experiment", wait=3
    )
    assert "film" in said


def test_parent_run(browser, site, experiment, runs):
    (parent,) = named(runs, "opinions")[:1]
    said = browser.read(page(site, experiment, parent), "opinions", name="mlflow-parent", wait=3)
    assert "Finished" in said


def test_trial_run(browser, site, experiment, runs):
    trial = named(runs, "film")[0]
    said = browser.read(page(site, experiment, trial), "film", name="mlflow-trial", wait=3)
    assert "Finished" in said
    browser.read(
        page(site, experiment, trial, "/model-metrics"),
        "loss",
        name="mlflow-trial-curves",
        wait=4,
    )
    browser.read(page(site, experiment, trial, "/artifacts"), name="mlflow-trial-artifacts", wait=3)


def test_compare(browser, site, experiment, runs):
    some = json.dumps(named(runs, "film")[:4])
    said = browser.read(
        f'{site.mlflow}/#/compare-runs?runs={some}&experiments=["{experiment}"]', "film", name="mlflow-compare", wait=4
    )
    assert "accuracy" in said.lower()


def test_models(browser, site):
    names = [one["name"] for one in ask(site, "registered-models/search")["registered_models"]]
    assert len(names) >= 2
    said = browser.read(f"{site.mlflow}/#/models", names[0], name="mlflow-models", wait=2)
    assert "champion" in said
    film = next(name for name in names if "film" in name)
    browser.read(f"{site.mlflow}/#/models/{film}", film, name="mlflow-model", wait=2)
    said = browser.read(f"{site.mlflow}/#/models/{film}/versions/1", film, name="mlflow-version", wait=2)
    assert "film" in said
