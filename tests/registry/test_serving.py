import io
import os
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.backbones.shared import shared_backbone
from infra.errors import InputError
from infra.settings import home
from registry import serving
from registry.ledger import Ledger
from registry.promotion.champion import champion, crown
from registry.serving import Predictor, load_champion
from registry.tracking import Tracker
from tests.registry.registry_helpers import (
    TASK,
    finish,
    folder_of,
    make_spec,
    new_store,
    save_tiny_backbone,
    trained_outcome,
)

TEXTS = ["a nice film", "the dull  book", "nice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    new_store(home())


@pytest.fixture
def outcome(folder):
    backbone = shared_backbone(str(folder))
    spec = make_spec(task="mood", backbone=str(folder), adapter={"m": 4, "r": 2, "s": 16})
    return trained_outcome(home() / "adapters", spec, d=16, metadata={"backbone_id": backbone.weights_id})


@pytest.fixture
def crowned(outcome):
    tracker, ledger = Tracker(), Ledger.open()
    ledger.add([outcome.spec])
    finish(ledger, outcome, tracker.log_trial(None, outcome, folder_of(outcome)))
    crown(tracker, ledger, outcome, TASK)
    return tracker


def test_probabilities_are_those_of_the_model_itself(outcome, folder):
    """Against a plain forward pass over the text, one label word after the other."""
    adapter, backbone = Adapter.load(folder_of(outcome)), Backbone.from_pretrained(str(folder))
    table = Predictor(adapter).predict(TEXTS)
    assert list(table.columns) == ["label", "pos", "neg"]
    assert table["pos"].max() - table["pos"].min() > 1e-3, "the backbone does not tell these texts apart"
    for text, answer in zip(TEXTS, table.to_dict("records"), strict=True):
        ids = backbone.tokenizer(f"say: {' '.join(text.split())} mood:", return_tensors="pt").input_ids
        with torch.no_grad():
            logits = backbone(adapter, ids).logits[0, -1]
        wanted = logits[backbone.tokenizer.convert_tokens_to_ids(["good", "bad"])].softmax(0)
        assert [answer["pos"], answer["neg"]] == pytest.approx(wanted.tolist(), abs=1e-5)
        assert answer["label"] == ("pos" if wanted[0] > wanted[1] else "neg")


def test_both_ways_to_a_champion_answer_alike(crowned, folder, monkeypatch):
    direct = load_champion("mood", str(folder)).predict(TEXTS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", crowned.uri)
    loaded = mlflow.pyfunc.load_model("models:/dept-tiny-mood@champion")
    for inputs in (TEXTS, pd.DataFrame({"text": TEXTS, "other": [1, 2, 3]}), np.array(TEXTS)):
        pd.testing.assert_frame_equal(loaded.predict(inputs), direct, check_exact=True)
    assert loaded.metadata.signature.outputs.input_names() == ["label", "pos", "neg"]


def test_a_fresh_process_answers_from_the_stored_model(crowned, folder):
    code = (
        "import mlflow\nmodel = mlflow.pyfunc.load_model('models:/dept-tiny-mood@champion')\n"
        f"print(model.predict({TEXTS!r}).to_json())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        text=True,
        capture_output=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": crowned.uri},
    )
    wanted = load_champion("mood", str(folder)).predict(TEXTS)
    pd.testing.assert_frame_equal(pd.read_json(io.StringIO(out.stdout)), wanted)
    assert "Warning" not in out.stderr


def test_the_stored_model_holds_code_pins_and_no_pickle(crowned):
    found = champion(crowned, "dept-tiny-mood")
    model = found.adapter_folder.parent.parent
    names = {path.name for path in model.rglob("*")}
    assert {"MLmodel", "pyfunc_model.py", "adapter.safetensors", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    pins = (model / "requirements.txt").read_text().split()
    assert pins == serving.requirements()
    assert f"torch=={torch.__version__.split('+')[0]}" in pins


@pytest.mark.parametrize(
    "inputs",
    [
        "a nice film",
        ["a nice film"],
        ("a nice film",),
        pd.Series(["a nice film"]),
        {"text": ["a nice film"]},
        {"text": "a nice film"},
        [{"text": "a nice film"}],
        pd.DataFrame(["a nice film"], columns=["text"]),
    ],
)
def test_every_shape_of_input_gives_the_same_answer(outcome, inputs):
    predictor = Predictor(Adapter.load(folder_of(outcome)))
    pd.testing.assert_frame_equal(predictor.predict(inputs), predictor.predict(["a nice film"]))


def test_no_input_gives_no_answer(outcome):
    table = Predictor(Adapter.load(folder_of(outcome))).predict([])
    assert (list(table.columns), len(table)) == (["label", "pos", "neg"], 0)


@pytest.mark.parametrize(
    "inputs", [7, [7], [None], pd.DataFrame({"body": ["a"]}), [["a"]], pd.DataFrame({"text": [float("nan")]})]
)
def test_what_is_no_text_is_named(outcome, inputs):
    with pytest.raises(InputError, match="text"):
        Predictor(Adapter.load(folder_of(outcome))).predict(inputs)


def test_templates_of_several_fields_want_them_all(outcome):
    adapter = Adapter.load(folder_of(outcome))
    adapter.metadata["template"] = "say: {premise} x {hypothesis} mood:"
    predictor = Predictor(adapter)
    assert len(predictor.predict({"premise": ["a", "b"], "hypothesis": ["c", "d"]})) == 2
    with pytest.raises(InputError, match="premise, hypothesis"):
        predictor.predict(["a"])
    with pytest.raises(InputError, match="hypothesis is None"):
        predictor.predict([{"premise": "a"}])


def test_one_backbone_serves_the_process(outcome):
    one, two = (Predictor(Adapter.load(folder_of(outcome))) for _ in range(2))
    assert one.backbone is two.backbone


def test_altered_or_strange_adapters_are_refused(crowned, outcome, folder):
    found = champion(crowned, "dept-tiny-mood").adapter_folder / "adapter.safetensors"
    found.write_bytes(found.read_bytes()[:-1])
    with pytest.raises(InputError, match="sha256"):
        load_champion("mood", str(folder))
    adapter = Adapter.load(folder_of(outcome))
    adapter.metadata["backbone_id"] = "f" * 64
    with pytest.raises(InputError, match="other weights"):
        Predictor(adapter)
    adapter.metadata = {"backbone": str(folder)}
    with pytest.raises(InputError, match="template, labels, words"):
        Predictor(adapter)
    with pytest.raises(InputError, match="no champion of dept-tiny-unknown"):
        load_champion("unknown", str(folder))
