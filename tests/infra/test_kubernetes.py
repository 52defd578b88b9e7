"""infra/k8s against Kubernetes' own schemas, and against what Prefect's Kubernetes worker makes of our job template."""

import asyncio
import copy
import json
import uuid
from pathlib import Path
from unittest.mock import AsyncMock

import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from infra.pool_templates import templates
from infra.prefect_api import LIMITS

FOLDER = Path(__file__).parents[2] / "infra" / "k8s"
TEMPLATE = FOLDER / "work-pool.json"
VERSIONS = ("1.30.0", "1.36.0")  # of Kubernetes: the oldest that we promise, and a recent one


def manifests():
    """Every object of the YAML files, those in lists as well; (file:kind/name, object)."""
    for file in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            for one in document["items"] if document["kind"] == "List" else [document]:
                yield f"{file.name}:{one['kind']}/{one['metadata']['name']}", one


MANIFESTS = dict(manifests())


def check(manifest):
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def containers(name):
    pod = MANIFESTS[f"workers.yaml:Deployment/{name}"]["spec"]["template"]["spec"]
    return pod["initContainers"], pod["containers"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schemas(name):
    check(MANIFESTS[name])


def test_a_wrong_manifest_is_refused():
    wrong = copy.deepcopy(MANIFESTS["workers.yaml:Deployment/dept-gpu"])
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_a_worker_for_each_pool_with_probes_limits_and_secrets_by_reference():
    for name, pool in (("dept-control", "control"), ("dept-gpu", "gpu")):
        inits, (worker,) = containers(name)
        assert worker["command"][-2:] == ["--pool", pool]
        assert "--with-healthcheck" in worker["command"]
        assert {"livenessProbe", "readinessProbe", "startupProbe"} <= set(worker)
        for one in (*inits, worker):
            assert one["resources"]["limits"]["memory"]
            assert {"secretRef": {"name": "dept"}} in one["envFrom"]
    assert [bool(containers(name)[0]) for name in ("dept-control", "dept-gpu")] == [True, False]  # pools are made once


def test_no_disk_is_claimed_and_no_secret_is_written_down():
    text = "".join(file.read_text(encoding="utf-8") for file in FOLDER.iterdir())
    assert "persistentVolumeClaim" not in text
    assert not {one["kind"] for one in MANIFESTS.values()} & {"PersistentVolumeClaim", "Secret"}
    settings = MANIFESTS["base.yaml:ConfigMap/dept"]["data"]
    assert settings["DEPT_STORE"].startswith("s3://")
    assert not any("://" in value and "@" in value for value in settings.values())


def job(pool, monkeypatch, **values):
    """The Job that Prefect's worker makes in this pool."""
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect-server.prefect:4200/api")
    kind = KubernetesWorkerJobConfiguration.from_template_and_values
    made = asyncio.run(kind(templates(TEMPLATE, LIMITS)[pool], values, client=AsyncMock()))
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), name="demo: worker 1", flow_id=uuid.uuid4()))
    pod = made.job_manifest["spec"]["template"]["spec"]
    for misplaced in ("parallelism", "completions"):  # Prefect insists on them here, where Kubernetes ignores them
        pod.pop(misplaced)
    return made.job_manifest, pod


@pytest.mark.parametrize(("pool", "gpus"), [("control", 0), ("gpu", 1)])
def test_the_job_of_a_flow_run(pool, gpus, monkeypatch):
    manifest, pod = job(pool, monkeypatch)
    check(manifest)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert container["envFrom"] == [{"configMapRef": {"name": "dept"}}, {"secretRef": {"name": "dept"}}]
    assert container["args"][:2] == ["prefect", "flow-run"]
    assert all("emptyDir" in volume for volume in pod["volumes"])


def test_a_deployment_may_ask_for_other_means(monkeypatch):
    manifest, pod = job("gpu", monkeypatch, gpus=4, cpu_limit="8", backoff_limit=2, annotations={"team": "ours"})
    check(manifest)
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": 4}
    assert manifest["spec"]["backoffLimit"] == 2
    assert manifest["metadata"]["annotations"] == {"team": "ours"}


def test_the_template_has_every_variable_that_prefects_own_has():
    base = KubernetesWorker.get_default_base_job_template()
    ours = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    assert set(base["variables"]["properties"]) - set(ours["variables"]["properties"]) == set()
    assert set(base["job_configuration"]) - set(ours["job_configuration"]) == set()


def test_defaults_of_a_pool_must_be_variables(tmp_path):
    file = tmp_path / "pool.json"
    file.write_text(json.dumps({"defaults_of": {"gpu": {"gpu": 1}}, "variables": {"properties": {"gpus": {}}}}))
    with pytest.raises(ValueError, match="gpu, which is no variable"):
        templates(file, LIMITS)
    file.write_text("[]")
    with pytest.raises(ValueError, match="no job template"):
        templates(file, LIMITS)
