"""What people see of a plan in MLflow."""

import json
import urllib.request

import pytest

from infra.mlflow_page import run_page, runs_page


def ask(site, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{site.mlflow}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def experiment(site):
    found = ask(site, "experiments/search?max_results=10")["experiments"]
    return next(one["experiment_id"] for one in found if one["name"] == "dept-transfer")


@pytest.fixture(scope="module")
def runs(site, experiment):
    """Ids of runs by their names."""
    found = ask(site, "runs/search", {"experiment_ids": [experiment], "max_results": 100})["runs"]
    return {run["info"]["run_name"]: run["info"]["run_id"] for run in found}


def test_the_table_opens_with_scores(browser, site, experiment):
    said = browser.read(
        f"{site.mlflow}/{runs_page(experiment)}", "film/4/0/scratch", name="mlflow-experiment", wait=2
    ).splitlines()
    assert {"test/accuracy", "validation/loss", "k", "method"} <= set(said)
    assert {"plot/4/1/scratch", "film/4/0/tfidf"} <= set(said)  # rows of trials, not folded below their flow run
    assert "Model training" in said


def test_a_flow_run_says_what_came_of_it(browser, site, experiment, runs):
    said = browser.read(
        f"{site.mlflow}/{run_page(experiment, runs['opinions'])}", "Champions", name="mlflow-parent", wait=2
    )
    assert "Training runs" not in said  # that would be the side bar of the other view, of language models
    for words in ("Finished", "sources food, service", "Files: report.html", "film-dept-tiny-llama-"):
        assert words in said
    browser.page.get_by_text("Champions").first.scroll_into_view_if_needed()
    browser.look("mlflow-parent-note")


def test_a_trial_says_how_it_was_made(browser, site, experiment, runs):
    address = f"{site.mlflow}/{run_page(experiment, runs['film/4/1/scratch'])}"
    said = browser.read(address, "film/4/1/scratch", "Recipe", name="mlflow-trial", wait=2)
    for words in ("Finished", "4 shots, seed 1", "start: scratch", "opinions", "test accuracy"):
        assert words in said
    place, mark, view = address.partition("?")
    said = browser.read(f"{place}/model-metrics{mark}{view}", "curve", name="mlflow-trial-curves", wait=4)
    assert "loss" in said


def test_trials_compare_by_what_they_differ_in(browser, site, experiment, runs):
    some = json.dumps([run for name, run in runs.items() if name.startswith("film/4/0")])
    address = f'{site.mlflow}/#/compare-runs?runs={some}&experiments=["{experiment}"]&workflowType=machine_learning'
    said = browser.read(address, "film/4/0/scratch", name="mlflow-compare", wait=3)
    assert "method" in said
    assert "lr_prompt" in said
    assert "accuracy" in said


def test_a_model_says_task_data_licence_and_decision(browser, site):
    names = [one["name"] for one in ask(site, "registered-models/search")["registered_models"]]
    said = browser.read(f"{site.mlflow}/#/models", names[0], name="mlflow-models", wait=2)
    assert "champion" in said
    assert sorted(name.partition("-dept-")[0] for name in names) == ["all-tasks", "film", "food", "plot", "service"]
    film = next(name for name in names if name.startswith("film"))
    said = browser.read(f"{site.mlflow}/#/models/{film}", film, name="mlflow-model", wait=2)
    for words in ("opinions in film.csv", "CC0-1.0", "Decision", "champion"):
        assert words in said
    said = browser.read(f"{site.mlflow}/#/models/{film}/versions/1", "Recipe", name="mlflow-version", wait=2)
    for words in ("film, 4 shots", "Decision", "Inputs", "champion"):
        assert words in said
