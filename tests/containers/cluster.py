"""infra/k8s, played: kubectl applies it to a stand-in for a cluster; a small plan runs in Jobs, its store in a bucket.

    python -m tests.containers.cluster      # after `make compose-test`, which builds the image; takes as long

Needs kubectl, podman and moto's server (`pip install "moto[server]"`, for a bucket) beside what compose.py needs; the
environment names the engine as there. PostgreSQL, Prefect and MLflow are those of infra/compose.yaml.
"""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.containers import compose as stack
from tests.containers.fake_cluster import Cluster

S3 = "http://127.0.0.1:5555"
CHANGES = {  # what a person edits in base.yaml
    "http://prefect-server.prefect:4200/api": "http://127.0.0.1:4200/api",
    "http://mlflow.mlflow:5000": "http://127.0.0.1:5000",
    "# AWS_ENDPOINT_URL: https://s3.example.org": f"AWS_ENDPOINT_URL: {S3}",
}


def kubectl(*words, kubeconfig):
    env = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*"}
    done = subprocess.run(["kubectl", *words], cwd=stack.ROOT, env=env, capture_output=True, text=True, check=False)
    print("$ kubectl", *words)
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == 0
    return done.stdout


def bucket():
    urllib.request.urlopen(urllib.request.Request(f"{S3}/dept", method="PUT"), timeout=10)
    return True


def main():
    stack.prepare()
    subprocess.run(["podman", "tag", "dept-transfer", "dept-transfer:cuda"], check=True)
    moto = subprocess.Popen([os.environ.get("MOTO", "moto_server"), "-p", "5555"], stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        kubeconfig = Path(folder) / "config"
        cluster = Cluster([f"{kubeconfig}:/home/dept/.kube/config:ro"])
        try:
            play(cluster, Path(folder), kubeconfig)
        finally:
            cluster.stop()
            moto.terminate()
            stack.compose("down", "--volumes", quiet=True)


def play(cluster, folder, kubeconfig):
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": cluster.url}}],
                "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "dept"}}],
                "current-context": "fake",
            }
        )
    )
    kubeconfig.chmod(0o644)
    folder.chmod(0o755)
    stack.until("a bucket", bucket, 60)
    stack.compose("up", "--detach", "postgres", "prefect", "mlflow")
    stack.until("Prefect's page", lambda: stack.ask(f"{stack.PREFECT}/health"), 300)
    stack.until("MLflow", lambda: stack.ask(f"{stack.MLFLOW}/experiments/search?max_results=1"), 300)
    text = (stack.ROOT / "infra/k8s/base.yaml").read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "base.yaml").write_text(text, encoding="utf-8")
    ledger = f"postgresql+psycopg://dept:{os.environ['POSTGRES_PASSWORD']}@127.0.0.1:5432/ledger"
    (folder / "secrets.env").write_text(
        f"DEPT_LEDGER_URL={ledger}\nAWS_ACCESS_KEY_ID=me\nAWS_SECRET_ACCESS_KEY=secret\nAWS_DEFAULT_REGION=us-east-1\n"
    )
    base, workers = f"--filename={folder / 'base.yaml'}", "--filename=infra/k8s/workers.yaml"
    kubectl("apply", "--dry-run=client", "--validate=false", base, workers, kubeconfig=kubeconfig)
    kubectl("apply", "--validate=false", base, kubeconfig=kubeconfig)
    made = ["create", "secret", "generic", "dept", f"--from-env-file={folder / 'secrets.env'}"]
    made = kubectl(*made, "--dry-run=client", "--output=json", kubeconfig=kubeconfig)  # else kubectl sends no JSON
    (folder / "secret.json").write_text(made, encoding="utf-8")
    kubectl("apply", "--validate=false", f"--filename={folder / 'secret.json'}", kubeconfig=kubeconfig)
    kubectl("apply", "--validate=false", workers, kubeconfig=kubeconfig)
    stack.until("a worker in each pool", lambda: stack.online("control") and stack.online("gpu"), 400)
    took = stack.run_plan()
    jobs = [body for (kind, _, _), body in cluster.objects.items() if kind == "Job"]
    stack.until("the end of all Jobs", lambda: all("succeeded" in job.get("status", {}) for job in jobs), 60)
    gpus = sorted(
        job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for job in jobs
    )
    assert set(gpus) == {0, 1}, gpus  # a controller's Job, and those of its workers
    text = json.dumps(jobs)
    assert os.environ["POSTGRES_PASSWORD"] not in text
    kept = urllib.request.urlopen(f"{S3}/dept?list-type=2", timeout=10).read().decode()
    assert kept.count("<Key>") >= 3, kept
    print(f"a plan in {took:.0f} s by {len(jobs)} Jobs; {kept.count('<Key>')} objects in the bucket")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
