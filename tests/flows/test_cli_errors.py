"""Bad input through the command line: exit code 2, one line on stderr, before any server, run or training."""

import contextlib
import shutil
import socket

import pytest
import yaml

from flows import retrain, transfer
from flows.cli import findings
from flows.execution.open import open_plan
from flows.planning.plan_file import load_plan
from infra.errors import InputError
from infra.settings import home
from registry.ledger import Ledger
from tests.flows.test_cli import dept, refused
from tests.registry.registry_helpers import new_store, save_tiny_backbone

GOOD = "".join(f"a lovely thing number {i},good\n" for i in range(20))
BAD = "".join(f"a dreadful thing number {i},bad\n" for i in range(20))


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    @contextlib.contextmanager
    def wire():
        raise AssertionError("a Prefect server was about to start")
        yield

    monkeypatch.setattr(transfer, "prefect_api", wire)
    monkeypatch.setattr(retrain, "prefect_api", wire)


@pytest.fixture
def plan(tmp_path, tiny_folders):
    """Write a plan on own files and a tiny backbone; keyword arguments replace its keys."""

    def write(rows=f"text,label\n{GOOD}{BAD}", **changes):
        raw = rows.encode() if isinstance(rows, str) else rows
        (tmp_path / "mine.csv").write_bytes(raw)
        (tmp_path / "other.csv").write_bytes(raw.replace(b"thing", b"day"))  # equal rows would be leaks
        task = {"template": "{text} Mood:", "verbalizer": {"good": "great", "bad": "awful"}}
        body = {
            "backbone": str(tiny_folders["llama"]),
            "own_tasks": {n: task | {"source": {"kind": "file", "path": f"{n}.csv"}} for n in ("mine", "other")},
            "sources": ["other"],
            "targets": ["mine"],
            "shots": [4],
            "adapter": {"m": 4, "r": 2, "s": 16},
            **changes,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
        return str(path)

    return write


def test_a_good_plan_gets_as_far_as_the_server(plan):
    new_store(home())
    result = dept("run", plan())
    assert isinstance(result.exception, AssertionError), result.output
    assert Ledger.open().find() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": ["movie-polarty"]}, "unknown task 'movie-polarty'; did you mean movie-polarity?"),
        ({"targetz": ["mine"]}, "targetz: unknown key; did you mean targets?"),
        ({"adapter": {"width": 3}}, "adapter.width: unknown key"),
        ({"seeds": [-1]}, "seeds.0: must be a whole number from 0 to 2,147,483,647, got -1"),
        ({"source_training": {"lr_prompt": -0.1}}, "source_training.lr_prompt"),
        ({"adapter": {"m": 0}}, "adapter.m"),
        ({"shots": [5000]}, "use k <= "),
        ({"rows": f"text,label\n{GOOD}"}, "label 'bad' has no usable rows"),
        ({"rows": ""}, "the file is empty"),
        ({"rows": "text,label\n"}, "holds no rows"),
        ({"rows": b"text,label\nca" + "fé,good\n".encode("latin-1")}, "line 2: not UTF-8 (byte 0xe9)"),
        ({"rows": f"text,label\n{GOOD}{BAD}so so,middling\n"}, "label 'middling' is not in the verbalizer"),
        ({"rows": f"words,label\n{GOOD}{BAD}"}, "no column 'text'"),
        ({"backbone": "smolm2"}, "backbone 'smolm2' cannot be loaded"),
        ({"backbone": "/no/such/folder"}, "backbone /no/such/folder: no such folder"),
    ],
)
def test_bad_plans(plan, changes, said):
    refused(dept("run", plan(**changes)), said)
    assert not home().exists()


def test_no_list_of_keys_names_what_a_run_fills_in(plan):
    result = dept("run", plan(adapter={"pictures": {"encodr": "x"}}))
    refused(result, "adapter.pictures.encodr: unknown key; did you mean encoder? Known: grid, pixels, rank, encoder")
    assert "encoder_id" not in result.output
    result = dept("run", plan(storedd={}))
    refused(result, "storedd: unknown key")
    assert "stored," not in result.output


def test_a_plan_file_that_is_a_folder(tmp_path):
    (tmp_path / "plan.yaml").mkdir()
    refused(dept("run", str(tmp_path / "plan.yaml")), "plan.yaml: is a folder")
    refused(dept("run", str(tmp_path)), "unknown")


def test_a_plan_that_is_not_utf8(tmp_path):
    (tmp_path / "plan.yaml").write_bytes("targets: [café]".encode("latin-1"))
    refused(dept("run", str(tmp_path / "plan.yaml")), "not UTF-8 (byte 13); save it as UTF-8")


def test_more_than_the_backbone_has_positions(plan, tiny_folders):
    path = plan(backbone=str(tiny_folders["gpt2"]), adapter={"m": 8, "r": 2, "s": 249})
    refused(dept("run", path), "has 256 positions; m + s = 257. Remedy: a smaller s or m")


def test_words_that_the_backbone_cannot_tell_apart(plan, tmp_path):
    folder = save_tiny_backbone(tmp_path / "words")
    refused(dept("run", plan(backbone=str(folder))), "words ['awful', 'great'] are not told apart")


def test_another_type_or_a_damaged_backbone(plan, tmp_path, tiny_folders):
    folder = shutil.copytree(tiny_folders["llama"], tmp_path / "damaged")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:2000])
    with pytest.raises(InputError, match="cannot be loaded"):  # only a worker reads the weights
        _ = open_plan(load_plan(plan(backbone=str(folder)))).backbone
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"llama"', '"bert"'))
    with pytest.raises(InputError, match=r"hold no weights|cannot be loaded"):
        _ = open_plan(load_plan(plan(backbone=str(folder)))).backbone


def test_damaged_stores(plan):
    path = plan()
    home().mkdir()
    (home() / "ledger.db").write_bytes(b"not a database at all" * 100)
    refused(dept("run", path), "cannot be opened")
    refused(dept("trials"), "cannot be opened")


def test_retrain_checks_first(plan):
    refused(dept("retrain", "--task", "movie-polarty"), "unknown task 'movie-polarty'")
    refused(dept("retrain", "--margin", "-1"), "margin")
    refused(dept("retrain", "--max-age-days", "0"), "max_age_days")
    refused(dept("retrain", "--backbone", "/no/such/folder"), "no such folder")


def test_a_device_that_is_not_there(plan):
    with pytest.raises(InputError, match="device 'cuda:99' is not there"):
        _ = open_plan(load_plan(plan(device="cuda:99"))).backbone


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_port_that_is_taken(option):
    with socket.socket() as busy, socket.socket() as free:
        for one in (busy, free):
            one.bind(("127.0.0.1", 0))
        busy.listen()
        taken, other = busy.getsockname()[1], free.getsockname()[1]
        free.close()
        rest = "--mlflow-port" if option == "--prefect-port" else "--prefect-port"
        refused(dept("up", option, str(taken), rest, str(other)), f"port {taken} (for ", "is taken", "choose another")
    assert not (home() / "services.json").exists()


def test_an_empty_home():
    result = dept("trials")
    assert (result.exit_code, result.stderr.strip()) == (0, "No trial yet: `dept run demo` trains some.")
    refused(dept("report"), "report: none in", "yet; `dept run demo` makes one")
    refused(dept("report", "some-run"), "no run 'some-run': there is none yet. Remedy: `dept run demo`")
    refused(dept("predict", "--task", "sms-spam", "hello"), "no champion of task sms-spam yet. Remedy")
    assert not home().exists()


@pytest.mark.parametrize("words", [("tasks", "check"), ("plan",), ("run", "--dry-run")])
def test_a_path_of_an_unknown_user(words):
    refused(dept(*words, "~nouser/x.yaml"), "~nouser: no such user on this machine")


def test_predict_for_a_task_that_nobody_knows():
    refused(dept("predict", "--task", "sms-spamm", "hello"), "unknown task 'sms-spamm'; did you mean sms-spam?")
    refused(dept("predict", "--task", "sms-spam", "hello"), "no champion of task sms-spam yet")


def test_doctor_looks_at_ledger_store_and_mlflow(monkeypatch):
    monkeypatch.setenv("DEPT_LEDGER_URL", "postgresql+psycopg://u:hunter2@127.0.0.1:1/d")
    monkeypatch.setenv("DEPT_STORE", "nosuch://bucket/x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    found = {finding.what: finding for finding in [*findings._state(), *findings._servers()]}
    assert [found[what].state for what in ("ledger", "store", "MLflow server")] == ["missing"] * 3
    assert "hunter2" not in str(found)
