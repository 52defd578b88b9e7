import io
import os
import shutil
import subprocess
import sys

import mlflow
import pandas as pd
import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from infra.errors import InputError
from infra.settings import home
from registry.promotion import versions
from registry.promotion.model import CODE, answer_columns, requirements
from registry.promotion.names import all_tasks_name
from registry.serving import Predictor, load_adapter, load_champion
from registry.serving.gate import RefusedError
from registry.serving.served import TaskModel
from registry.tracking import Tracker
from tests.registry.registry_helpers import folder_of, save_tiny_backbone
from tests.registry.serving_helpers import made, make_champion
from tests.registry.tracking_helpers import Lossy, log_trial

pytestmark = pytest.mark.usefixtures("mlflow_home")
TEXTS = ["a nice film", "the dull  book", "nice"]


@pytest.fixture
def outcome(folder):
    return made(folder)


@pytest.fixture
def promoted(outcome):
    return make_champion(outcome)


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


def test_both_ways_to_a_champion_answer_alike(promoted, folder, monkeypatch):
    world, name = promoted
    direct = load_champion("mood", str(folder)).predict(TEXTS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.tracker.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    table = pd.DataFrame({"text": TEXTS, "other": [1, 2, 3]})
    for inputs in (table, table.to_dict("list"), table["text"], table[["other", "text"]]):
        pd.testing.assert_frame_equal(loaded.predict(inputs), direct, check_exact=True)
    assert loaded.metadata.signature.outputs.input_names() == ["label", "pos", "neg", "error"]
    with pytest.raises(RefusedError, match="none of the model's columns is there"):
        loaded.predict(TEXTS)


def test_a_fresh_process_answers_from_the_stored_model(promoted, folder):
    world, name = promoted
    code = (
        f"import mlflow\nmodel = mlflow.pyfunc.load_model('models:/{name}@champion')\n"
        f"print(model.predict({ {'text': TEXTS}!r}).to_json())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        text=True,
        capture_output=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": world.tracker.uri},
    )
    wanted = load_champion("mood", str(folder)).predict(TEXTS)
    pd.testing.assert_frame_equal(pd.read_json(io.StringIO(out.stdout)), wanted)
    assert "Warning" not in out.stderr


def test_the_stored_model_holds_code_pins_and_no_pickle(promoted):
    world, name = promoted
    model = world.tracker.download(versions.by_alias(world.tracker, name, "champion").source)
    names = {path.name for path in model.rglob("*")}
    assert {"MLmodel", "pyfunc_model.py", "adapter.safetensors", "requirements.txt", CODE} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    pins = (model / "requirements.txt").read_text().split()
    assert pins == requirements()
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


def test_a_text_that_no_tokenizer_takes_spoils_no_other_row(outcome):
    adapter = Adapter.load(folder_of(outcome))
    adapter.metadata["template"] = "{text}"
    table = TaskModel(Predictor(adapter)).table(
        {"text": ["a nice film", "half \ud800", " ", "a\x00b", "the dull book"]}
    )
    wanted = Predictor(adapter).predict(["a nice film", "the dull book"])
    assert table["label"].tolist() == [wanted["label"][0], None, None, None, wanted["label"][1]]
    for place, said in {1: "surrogate", 2: "no token", 3: "NUL"}.items():
        assert said in table["error"][place]
    assert table["error"].isna().tolist() == [True, False, False, False, True]


def test_templates_of_several_fields_want_them_all(outcome):
    adapter = Adapter.load(folder_of(outcome))
    adapter.metadata["template"] = "say: {premise} x {hypothesis} mood:"
    predictor = Predictor(adapter)
    assert len(predictor.predict({"premise": ["a", "b"], "hypothesis": ["c", "d"]})) == 2
    with pytest.raises(InputError, match="premise, hypothesis"):
        predictor.predict(["a"])
    with pytest.raises(InputError, match="hypothesis is missing"):
        predictor.predict([{"premise": "a"}])


def test_one_backbone_serves_the_process(outcome):
    one, two = (Predictor(Adapter.load(folder_of(outcome))) for _ in range(2))
    assert one.backbone is two.backbone


def test_written_answers(folder):
    """Tasks that are answered by writing have a text, no word and no probability."""
    predictor = Predictor(load_adapter(folder_of(made(folder, labels=[], words=[]))))
    answers = predictor.answers([{"text": text} for text in TEXTS])
    assert len(answers) == 3
    assert all(answer.label == answer.label.strip() and answer.probability is None for answer in answers)
    assert predictor.labels == ()
    table = predictor.predict(TEXTS)
    assert list(table.columns) == ["label"]
    assert list(table["label"]) == [answer.label for answer in answers]


def test_a_class_called_label(folder, monkeypatch):
    outcome = made(folder, labels=["artist", "label"], words=["good", "bad"])
    predictor = Predictor(load_adapter(folder_of(outcome)))
    table = predictor.predict(TEXTS)
    assert list(table.columns) == ["label", "artist", "label_"]
    for answer, line in zip(predictor.answers([{"text": t} for t in TEXTS]), table.to_dict("records"), strict=True):
        assert answer.probabilities == pytest.approx((line["artist"], line["label_"]))
        assert answer.word == {"artist": "good", "label": "bad"}[answer.label]
        assert answer.probability == max(answer.probabilities)
        assert line["label"] == answer.label
    world, name = make_champion(outcome)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.tracker.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    pd.testing.assert_frame_equal(loaded.predict(pd.DataFrame({"text": TEXTS})), table)


def test_columns_of_labels_never_clash():
    assert answer_columns(("a", "b")) == {"a": "a", "b": "b"}
    assert answer_columns(("error", "up")) == {"error": "error_", "up": "up"}
    assert answer_columns(("label", "label_")) == {"label": "label__", "label_": "label_"}
    assert len(set(answer_columns(("label", "label_", "label__")).values()) | {"label"}) == 4


def test_a_lost_answer_makes_no_second_version_of_the_model_of_all_tasks(promoted, outcome, monkeypatch):
    world, _ = promoted
    spec = outcome.spec
    monkeypatch.setattr(versions, "code_sha256", lambda: "f" * 64)  # other code, so a new version
    world.tracker.client = Lossy(world.tracker.client, "create_model_version")
    made = versions.register_all_tasks(world, spec, world.ledger.get(spec.fingerprint).mlflow_run_id)
    name = all_tasks_name(spec.backbone, spec.backbone_id)
    assert {found.version for found in world.tracker.client.search_model_versions(f"name = '{name}'")} == {1, 2}
    assert made.version == 2


def test_altered_or_strange_adapters_are_refused(promoted, outcome, folder):
    file = folder_of(outcome) / "adapter.safetensors"
    whole = file.read_bytes()
    copy = home() / "copy"
    shutil.copytree(folder_of(outcome), copy)
    (copy / "adapter.safetensors").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="sha256"):
        load_adapter(copy)
    with pytest.raises(InputError, match="not the one that was registered"):
        load_adapter(folder_of(outcome), "f" * 64)
    adapter = Adapter.load(folder_of(outcome))
    adapter.metadata["backbone_id"] = "f" * 64
    with pytest.raises(InputError, match="other weights"):
        Predictor(adapter)
    adapter.metadata = {"backbone": str(folder)}
    with pytest.raises(InputError, match="template, labels, words"):
        Predictor(adapter)


def test_a_damaged_file_of_the_store_is_answered_by_mlflow_s_copy(promoted, outcome, folder):
    file = folder_of(outcome) / "adapter.safetensors"
    wanted = load_champion("mood", str(folder)).predict(TEXTS)
    file.write_bytes(file.read_bytes()[:-1])
    found = load_champion("mood", str(folder))
    pd.testing.assert_frame_equal(found.predict(TEXTS), wanted)
    assert "is damaged (adapter.safetensors is cut short or altered)" in found.note, "it is told, in one line"
    assert "MLflow's copy answers; `dept run`" in found.note
    assert "\n" not in found.note


def test_no_champion_is_one_line(promoted, folder, tmp_path):
    with pytest.raises(InputError, match=r"no champion of task unknown .*Remedy"):
        load_champion("unknown", str(folder))
    with pytest.raises(InputError, match=r"no champion of task unknown yet\. Remedy"):
        load_champion("unknown")
    other = save_tiny_backbone(tmp_path / folder.name, seed=1)  # of one last part, with other weights
    with pytest.raises(InputError, match=r"no champion of task mood on backbone .*it has one on"):
        load_champion("mood", str(other))


def test_the_backbone_that_is_named_is_loaded(folder, tmp_path):
    """Moved or renamed: the path in adapter.json is nobody's business."""
    moved = shutil.copytree(folder, tmp_path / "first")
    _, name = make_champion(made(moved))
    wanted = load_champion("mood", str(moved)).predict(TEXTS)
    moved.rename(tmp_path / "elsewhere")
    found = load_champion("mood", str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(found.predict(TEXTS), wanted)
    assert found.name == name


def test_without_a_backbone_the_only_one_answers(promoted, folder, tmp_path):
    assert load_champion("mood").predict(TEXTS).equals(load_champion("mood", str(folder)).predict(TEXTS))
    make_champion(made(save_tiny_backbone(tmp_path / "second", seed=1)))
    with pytest.raises(InputError, match="several backbones"):
        load_champion("mood")


@pytest.mark.parametrize("lost", ["model", "mlflow"])
def test_what_mlflow_has_lost_is_served_from_the_store(promoted, folder, lost):
    world, name = promoted
    wanted = load_champion("mood", str(folder)).predict(TEXTS)
    if lost == "model":
        world.tracker.client.delete_registered_model(name)
    else:
        (home() / "mlflow.db").unlink()
    found = load_champion("mood", str(folder))
    pd.testing.assert_frame_equal(found.predict(TEXTS), wanted)
    assert ("dept run" in found.note) == (lost == "model")
    assert (home() / "mlflow.db").is_file() == (lost == "model"), "reading makes nothing"


def test_mlflow_alone_is_enough(promoted, folder):
    wanted = load_champion("mood", str(folder)).predict(TEXTS)
    (home() / "ledger.db").unlink()
    shutil.rmtree(home() / "store")
    pd.testing.assert_frame_equal(load_champion("mood", str(folder)).predict(TEXTS), wanted)
    assert not (home() / "ledger.db").is_file(), "reading makes nothing"


def test_champions_of_the_first_version_are_found(outcome, folder):
    """They have names without weights; the ledger of then is not needed."""
    tracker = Tracker()
    run_id = log_trial(tracker, outcome, folder_of(outcome))
    from registry.promotion.model import log_model

    source = log_model(tracker, run_id, folder_of(outcome)).artifact_location
    tracker.client.create_registered_model("dept-tiny-mood")
    tags = {"fingerprint": outcome.spec.fingerprint, "backbone": str(folder)}
    tracker.client.create_model_version("dept-tiny-mood", source, run_id, tags=tags)
    tracker.client.set_registered_model_alias("dept-tiny-mood", "champion", "1")
    found = load_champion("mood", str(folder))
    assert len(found.predict(TEXTS)) == 3
    assert "0.1.0" in found.note
