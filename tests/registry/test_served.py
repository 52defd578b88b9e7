"""Models as `mlflow models serve` answers from them: a real process, asked over HTTP."""

import json
import os
import subprocess
import sys
import time

import mlflow
import pandas as pd
import pytest

from dept.backbones.describe import describe
from registry.promotion import versions
from registry.promotion.names import all_tasks_name
from registry.serving import load_champion
from registry.serving.gate import TIMEOUT, Gate, RefusedError
from registry.serving.served import MOST_CHARACTERS, TaskModel, cost_of
from registry.tracking import Tracker
from tests.registry.serving_helpers import ROOT, ask, made, make_champion, served

pytestmark = pytest.mark.usefixtures("mlflow_home")
PAIR = "say: {premise} x {hypothesis} mood:"


@pytest.fixture
def all_tasks(folder):
    """Champions of three tasks, of two shapes and two templates, and the name of the model that answers for them."""
    make_champion(made(folder))
    make_champion(made(folder, "other", seed=1, labels=["up", "down"], shape={"m": 6, "r": 2, "s": 64}))
    world, _ = make_champion(made(folder, "pair", seed=2, template=PAIR), PAIR)
    return world, all_tasks_name(str(folder), world.ledger.decisions(task="mood")[0].backbone_id)


def test_a_server_answers_for_every_task_of_a_backbone(all_tasks, folder):
    world, name = all_tasks
    rows = [
        {"task": "mood", "text": "a nice film"},
        {"task": "pair", "premise": "a nice film", "hypothesis": "the dull book"},
        {"task": "other", "text": "a nice film"},
        {"task": "mood", "text": 7},
        {"task": "pair", "premise": "a"},
        {"task": "unknown", "text": "a"},
        {"text": "of no task"},
    ]
    with served(name, world.tracker.uri, DEPT_SERVE_POLL="0.1", DEPT_SERVE_ROWS="20") as url:
        status, said = ask(url, {"dataframe_records": rows})
        assert status == 200, said
        said = said["predictions"]
        for place, row in enumerate(rows[:3]):
            champion = load_champion(row["task"], str(folder))
            wanted = champion.answers([row])[0]
            assert said[place]["label"] == wanted.label
            assert said[place]["probability"] == pytest.approx(wanted.probability, abs=1e-5)
            assert list(said[place]["probabilities"]) == list(champion.labels)
            assert said[place]["model"] == f"{champion.name}/{champion.version}"
            assert said[place]["error"] is None
        wrong = [line["error"] for line in said[3:]]
        assert [line["label"] for line in said[3:]] == [None] * 4
        assert wrong[0].startswith("text is 7, not text")
        assert wrong[1].startswith("hypothesis is missing")
        assert wrong[2] == "no champion of task 'unknown'; there are mood, other, pair"
        assert wrong[3].startswith("task is missing")

        for body, line in (
            ({"dataframe_records": rows[3:4]}, "predict: row 0: text is 7, not text"),
            ({"dataframe_records": [{"body": "x"}]}, "predict: none of the model's columns is there"),
            ({"dataframe_records": rows[:1] * 21}, "predict: 21 rows; this server takes 20 at once"),
            ({"rows": []}, "The input must be a JSON dictionary"),
            ("{", "Invalid input. Ensure that input is a valid JSON formatted string"),
        ):
            status, said = ask(url, body)
            assert (status, said["message"].splitlines()[0][: len(line)]) == (400, line)

        make_champion(made(folder, "late", seed=3))  # while it serves
        status, said = ask(url, {"dataframe_records": [{"task": "late", "text": "a nice film"}]})
        assert (status, said["predictions"][0]["model"].partition("-")[0]) == (200, "late")
        before = said["predictions"][0]["model"]
        version = versions.register(world, before.partition("/")[0], made(folder, "late", seed=4))
        versions.move(world.tracker, version, "champion")
        until = time.monotonic() + 60
        while ask(url, {"dataframe_records": [{"task": "late", "text": "a"}]})[1]["predictions"][0]["model"] == before:
            assert time.monotonic() < until, "the new champion is not noticed"
            time.sleep(0.2)


def test_the_model_of_a_task_is_served_alone(all_tasks, folder):
    """By its own code: the package is nowhere on this server's path. Slow requests are refused before they run."""
    world, _ = all_tasks
    name = versions.find_model(world.tracker, "mood", world.ledger.decisions(task="mood")[0].backbone_id)
    with served(name, world.tracker.uri, timeout=5) as url:
        status, said = ask(url, "text\na nice film\nthe dull book\n", "text/csv")
        wanted = load_champion("mood", str(folder)).predict(["a nice film", "the dull book"])
        assert status == 200, said
        pd.testing.assert_frame_equal(pd.DataFrame(said["predictions"]), wanted)
        status, said = ask(url, {"dataframe_split": {"columns": ["text"], "data": [["a nice film"], [None]]}})
        assert status == 200, said
        assert said["predictions"][0]["label"] == wanted["label"][0]
        assert said["predictions"][1] == {
            "label": None,
            "pos": None,
            "neg": None,
            "error": said["predictions"][1]["error"],
        }
        assert said["predictions"][1]["error"].startswith("text is missing")
        began = time.monotonic()
        status, said = ask(url, {"dataframe_records": [{"text": "a nice film " * 25}] * 9900})
        assert status == 400, said
        assert said["message"].startswith("predict: 9900 rows would take about")
        assert time.monotonic() - began < 30


def test_stored_models_have_signature_example_and_output(all_tasks):
    world, name = all_tasks
    tracker: Tracker = world.tracker
    for registered, columns in ((name, ["task", "text"]), ("mood", ["text"])):
        if registered == "mood":
            registered = versions.find_model(tracker, "mood", world.ledger.decisions(task="mood")[0].backbone_id)
        version = versions.by_alias(tracker, registered, "champion")
        place = tracker.download(version.source)
        about = mlflow.models.Model.load(str(place))
        assert about.signature.inputs.input_names()[: len(columns)] == columns
        assert list(json.loads((place / "input_example.json").read_text())["columns"])[: len(columns)] == columns
        logged = tracker.client.get_logged_model(version.tags["model_id"])
        assert (logged.status, logged.source_run_id) == ("READY", version.run_id)
        assert version.tags["model_id"] in [
            o.model_id for o in tracker.client.get_run(version.run_id).outputs.model_outputs
        ]


def test_the_model_that_the_readme_serves_is_the_embedded_backbone_s():
    info = describe("smollm2-135m")
    assert f"models:/{all_tasks_name('smollm2-135m', info.backbone_id)}@champion" in (ROOT / "README.md").read_text()


CLEAN = """
import importlib.metadata as metadata, pathlib, sys
from packaging.requirements import Requirement
uri, names, wanted = sys.argv[1], sys.argv[2:4], []
class Missing:
    "What this package needs and no requirement of the model brings is not there."
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in gone:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def closure(names):
    found, left = set(), [name.lower().replace("_", "-") for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            continue
        here = [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
        left += [one.lower().replace("_", "-") for one in here]
    return found
place = pathlib.Path(sys.argv[4])
pins = [Requirement(line).name for line in (place / "requirements.txt").read_text().splitlines()]
known = {Requirement(one).name for one in metadata.requires("dept-transfer") if "extra ==" not in one}
missing = known - closure(pins) - {"deepspeed"}  # accelerate looks for that one by itself
gone = {top for top, owners in metadata.packages_distributions().items() if missing & set(owners)}
sys.meta_path[:] = [Missing(), *(one for one in sys.meta_path if "editable" not in repr(one).lower())]
assert {"prefect", "datasets"} <= gone, gone
try:
    import registry
except ModuleNotFoundError:
    pass
else:
    raise SystemExit(f"the package is here: {registry.__file__}")
import mlflow
mlflow.set_tracking_uri(uri)
for name in names:
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    print(model.predict(model.input_example.assign(task="mood", text="a nice film"))["label"][0])
import registry
assert "dept_transfer.zip" in registry.__file__, registry.__file__
assert "prefect" not in sys.modules
"""


def test_stored_models_run_on_what_they_bring_and_require(all_tasks, folder, tmp_path):
    """As in an environment into which their requirements alone were installed."""
    world, name = all_tasks
    alone = versions.find_model(world.tracker, "mood", world.ledger.decisions(task="mood")[0].backbone_id)
    place = world.tracker.download(versions.by_alias(world.tracker, alone, "champion").source)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    out = subprocess.run(
        [sys.executable, "-c", CLEAN, world.tracker.uri, alone, name, str(place)],
        env=env | {"MLFLOW_TRACKING_URI": world.tracker.uri},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    wanted = load_champion("mood", str(folder)).answers([{"text": "a nice film"}])[0].label
    assert out.stdout.split() == [wanted, wanted]


def test_the_gate_lets_python_wait_and_refuses_a_server(monkeypatch):
    gate = Gate()
    with gate.passing(1, 1000.0):
        pass
    gate._speeds.clear()
    gate._speeds.append(100.0)  # tokens a second
    with gate.passing(10**6, 10.0**9):
        assert gate._ahead == 10.0**9  # nobody asked for a time
    monkeypatch.setenv(TIMEOUT, "60")
    gate._speeds.clear()
    gate._speeds.append(100.0)
    with (
        gate.passing(10, 4000.0),
        pytest.raises(RefusedError, match="too many requests wait") as busy,
        gate.passing(1, 1000.0),
    ):
        pass
    assert busy.value.get_http_status_code() == 503
    gate._speeds.clear()
    gate._speeds.append(100.0)
    with (
        pytest.raises(RefusedError, match=r"100 rows would take about 100 s.*at most 48 of them") as slow,
        gate.passing(100, 1e4),
    ):
        pass
    slow.value.message = f"Failed to predict data. \nError: {slow.value.message}"  # as MLflow's server does
    assert json.loads(slow.value.serialize_as_json())["message"].startswith("predict: 100 rows")
    assert slow.value.get_http_status_code() == 400


def test_a_row_costs_what_is_read_of_it(folder):
    champion = make_champion(made(folder)) and load_champion("mood", str(folder))

    def cost(*texts):
        return cost_of([(champion, {"text": text}) for text in texts])

    assert cost("x " * 10**6) == cost("x " * 256) == 64 + 2 + 1
    bare = cost("")  # the template's own words and the answer's
    read = len(champion.backbone.tokens.encode_texts([champion.text_of({"text": ""})])[0])
    assert bare == read + 2 + 1 > 3
    for text in ("一部好电影，非常感人", "🙂🙃", "12 34"):  # far more tokens than a quarter of the characters
        tokens = champion.backbone.tokens.encode_texts([champion.text_of({"text": text})])[0]
        assert cost(text) == len(tokens) + 2 + 1
    many = ["good film"] * 1000  # of which a part is counted
    assert cost(*many) == pytest.approx(1000 * cost("good film"))


def test_more_rows_than_a_server_takes_are_refused_before_they_are_read(monkeypatch, folder):
    champion = make_champion(made(folder)) and load_champion("mood", str(folder))
    served = TaskModel(champion)
    monkeypatch.setenv(TIMEOUT, "60")
    monkeypatch.setenv("DEPT_SERVE_ROWS", "3")
    monkeypatch.setattr(champion.backbone.tokens, "encode_texts", None)
    with pytest.raises(RefusedError, match="4 rows; this server takes 3"):
        served.table(["a film"] * 4)


def test_a_text_that_takes_seconds_to_read_has_its_own_error(folder):
    champion = make_champion(made(folder)) and load_champion("mood", str(folder))
    long = "film " * (MOST_CHARACTERS // 5)
    found = TaskModel(champion).table(["a film", long + "x"])
    assert found["label"].notna().tolist() == [True, False]
    assert found["error"][1] == "text has 200,001 characters, at most 200,000 are read. Remedy: cut it"
