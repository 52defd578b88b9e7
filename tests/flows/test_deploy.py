"""`dept deploy`: for each kind of pool, from any folder, twice as once; what a person has set stays."""

import json

import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolUpdate
from typer.testing import CliRunner

from flows.cli.deploy import ROOT
from flows.cli.main import app
from infra.crash_automation import AFTER, AUTOMATION
from infra.errors import InputError
from infra.prefect_api import client, ensure_pools


def deploy(*words):
    return CliRunner().invoke(app, ["deploy", *words])


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_containers_take_the_code_of_their_image(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = deploy("--type", kind, "--image", "x/dept:1", "--env", "MLFLOW_TRACKING_URI=http://m:5000", "--dry-run")
    assert done.exit_code == 0, done.output
    text, _, pools = done.stdout.partition("\n{\n")
    body = yaml.safe_load(text)
    assert body["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/app"}}]
    for block in body["deployments"]:
        given = block["work_pool"]["job_variables"]
        beats = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        assert given == {"image": "x/dept:1", "env": beats | {"MLFLOW_TRACKING_URI": "http://m:5000"}}
    if kind == "kubernetes":
        made = json.loads("{\n" + pools)
        assert set(made) == {"control", "gpu"}
        assert "image" in made["gpu"]["variables"]["properties"]  # what the deployments set
    assert not list(tmp_path.iterdir())


def test_processes_run_where_they_were_deployed():
    body = yaml.safe_load(deploy("--dry-run").stdout)
    assert body == yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--type", "podman"], "--type podman: unknown. Remedy: process, docker, kubernetes"),
        (["--env", "x"], "expected NAME=VALUE"),
        (["--base-job-template", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_used_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = deploy(*words)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.timeout(300)
def test_twice_is_as_once_from_any_folder(prefect_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    assert (done := deploy()).exit_code == 0, done.output
    with client(prefect_url) as asked:
        first = found(asked)
        assert set(first) >= {"fewshot", "nightly", "tidy", "worker"}
        assert first["worker"].work_pool_name == "gpu"
        assert {first[name].work_pool_name for name in ("fewshot", "nightly", "tidy")} == {"control"}
        assert str(ROOT) in f"{first['fewshot'].path} {first['fewshot'].pull_steps}"
        # else healthy runs of a worker by hand beat every 180 s, and the automation would take them for dead
        assert {one.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for one in first.values()} == {"30"}
        asked.update_work_pool("gpu", WorkPoolUpdate(concurrency_limit=3))
        asked.pause_deployment(first["nightly"].id)
        assert (done := deploy()).exit_code == 0, done.output
        again = found(asked)
        assert {name: one.id for name, one in again.items()} == {name: one.id for name, one in first.items()}
        assert again["nightly"].paused
        assert asked.read_work_pool("gpu").concurrency_limit == 3
        for name in (AUTOMATION, AFTER):
            assert len(asked.read_automations_by_name(name)) == 1


def found(asked):
    ours = ("fewshot", "nightly", "tidy", "worker")
    return {one.name: one for one in asked.read_deployments() if one.name in ours and one.work_pool_name}


def test_a_pool_of_another_type_is_not_deployed_to(prefect_url):
    ensure_pools(prefect_url)
    with pytest.raises(InputError, match=r"pool \w+: .* type process, not kubernetes.*`dept deploy --type process`"):
        ensure_pools(prefect_url, "kubernetes")
