"""Rows with pictures, answered: as the engine scores them, however the picture is given; and what is refused."""

import base64
import builtins
import io
import json
import os
import pathlib
import re
import subprocess
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dept.adapters.adapter import Adapter
from dept.adapters.picture_map import SeenBy
from dept.backbones import measure_seeing
from dept.backbones.backbone import Backbone
from dept.backbones.encoder_files import looked_up
from dept.baselines.ensemble import Ensemble
from dept.baselines.probe import DEPTHS, train_probe
from dept.batches.tokenise import encode
from dept.config import PictureMap
from dept.engine.evaluate import Request, score
from dept.engine.features import features
from infra.errors import InputError
from registry.promotion.model import example_picture
from registry.serving import Predictor, pictures
from registry.serving.gate import RefusedError
from registry.serving.inputs import row_of
from registry.serving.predictor import answer_rows
from registry.serving.served import TaskModel, cost_of
from tasks.catalogue import get_task
from tasks.pictures import picture_at, picture_of
from tests.dept.test_picture_encoder import encoder_at
from tests.registry.serving_helpers import ROOT
from tests.seeing import save_seeing
from tests.tasks.picture_cases import bomb, png, rotated, saved, see_through

ABOUT = {"backbone": "tiny", "template": "Q: {question} A:", "labels": ["0", "1"], "words": ["no", "yes"]}
ASKED = ("is it red", "what is left of the blue shape", "is it")


@pytest.fixture
def files(tmp_path):
    """Pictures that differ, of several sizes and kinds."""
    cmyk = Image.new("CMYK", (20, 12), (200, 10, 90, 3))
    found = {"a.png": png(9, (8, 8)), "b.png": see_through("RGBA"), "c.jpg": rotated(), "d.jpg": saved(cmyk, "JPEG")}
    for name, body in found.items():
        (tmp_path / name).write_bytes(body)
    return [tmp_path / name for name in found]


def adapter_of(backbone, seed, sight=None, picture=True, **about):
    """A random adapter whose map of pictures, where it has one, is loud."""
    torch.manual_seed(seed)
    sees = None
    if sight is not None:
        sizes = [(sight.features, sight.rank), (sight.rank, backbone.d), (sight.positions, backbone.d)]
        sees = SeenBy(sight, *(torch.randn(*size) / 2 for size in sizes))
    made = Adapter(*(torch.randn(*size) / 4 for size in ((3, backbone.d), (24, 2), (2, backbone.d))), pictures=sees)
    made.metadata = {**ABOUT, "backbone_id": backbone.weights_id, **({"picture": True} if picture else {}), **about}
    return made


@pytest.fixture(params=["patches", "encoder", "packed", "model"])
def seeing(request, tmp_path, tiny_folders, monkeypatch):
    """A backbone, and a maker of adapters that see pictures: by a map of their own, or by the backbone's eyes."""
    if request.param in ("packed", "model"):
        if request.param == "model":
            monkeypatch.setattr(measure_seeing, "_ladder", lambda *_: (("model", "back"),))
            monkeypatch.setattr(measure_seeing, "_known", {})
            monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
        backbone = Backbone.from_pretrained(str(save_seeing(tmp_path / "llava", "llava")), device="cpu")
        assert backbone.way.pictures == request.param
        return backbone, lambda seed, **about: adapter_of(backbone, seed, **about)
    sight = PictureMap(grid=2, pixels=4, rank=3)
    if request.param == "encoder":
        sight = looked_up(PictureMap(grid=2, rank=3, encoder=encoder_at(tmp_path / "clip")))
    backbone = Backbone.from_pretrained(str(tiny_folders["gpt2"]), device="cpu")
    return backbone, lambda seed, **about: adapter_of(backbone, seed, sight, **about)


@pytest.fixture
def patches(tiny_folders):
    backbone = Backbone.from_pretrained(str(tiny_folders["gpt2"]), device="cpu")
    return backbone, lambda seed=0, **about: adapter_of(backbone, seed, PictureMap(grid=2, pixels=4, rank=3), **about)


def uri(body):
    return f"data:image/png;base64,{base64.b64encode(body).decode()}"


def scored(backbone, adapter, rows):
    """Probabilities by the public engine, pictures by reference."""
    texts = [f"Q: {question} A:" for question, _ in rows]
    shown = [picture_at(path) if path else None for _, path in rows]
    asked = [Request(text, ("no", "yes"), 0, picture) for text, picture in zip(texts, shown, strict=True)]
    return torch.tensor(score(backbone, [adapter], asked), dtype=torch.float64).softmax(1).numpy()


def test_answers_are_those_of_the_engine_in_a_mixed_batch(seeing, files):
    """Two that see pictures, one that reads text, and several together of which one is blind, in one batch."""
    backbone, make = seeing
    first, second, blind = make(0), make(1), adapter_of(backbone, 2, picture=False)
    both = Ensemble([make(3), adapter_of(backbone, 4, picture=False)], [1.0, 3.0])
    both.metadata = first.metadata
    one, two, text, several = (Predictor(adapter, backbone) for adapter in (first, second, blind, both))
    assert [p.columns for p in (one, text, several)] == [("question", "picture"), ("question",), one.columns]
    rows = [(question, path) for path in files for question in ASKED]
    shown = [{"question": question, "picture": picture_at(path)} for question, path in rows]
    asked = [(predictor, row) for row in shown for predictor in (one, text, two, several)]
    found = np.array([answer.probabilities for answer in answer_rows(asked)]).reshape(len(rows), 4, 2)
    words = [(question, None) for question, _ in rows]
    members = [scored(backbone, both.members[0], rows), scored(backbone, both.members[1], words)]
    wanted = [scored(backbone, first, rows), scored(backbone, blind, words), scored(backbone, second, rows)]
    mean = members[0] ** 0.25 * members[1] ** 0.75
    np.testing.assert_allclose(found, np.stack([*wanted, mean / mean.sum(1, keepdims=True)], axis=1), atol=1e-5)
    assert np.log(wanted[0][::3]).std(0).max() > 1e-2, "the pictures are told apart"


def test_a_probe_sees_with_the_backbone_s_eyes(tmp_path, files):
    """As it was fitted, on states of texts behind their pictures; and beside an adapter, both as one."""
    backbone = Backbone.from_pretrained(str(save_seeing(tmp_path / "llava", "llava")), device="cpu")
    adapter = adapter_of(backbone, 0)
    rows = [(question, path) for question in ASKED for path in files]
    texts, shown = [f"Q: {question} A:" for question, _ in rows], [picture_at(path) for _, path in rows]
    gold = [place % 2 for place in range(len(rows))]
    made = encode(backbone.tokens, texts, ("no", "yes"), gold, adapter.config, shown, template=ABOUT["template"])
    states = features(backbone, [(0, row) for row in made], DEPTHS)
    probe = train_probe(states, made, states, made)
    probe.metadata = {**adapter.metadata, "s": adapter.config.s}
    both = Ensemble([adapter, probe])
    both.metadata = adapter.metadata
    wanted = torch.tensor(probe.score(states), dtype=torch.float64).softmax(1).numpy()
    table = pd.DataFrame({"question": [q for q, _ in rows], "picture": [str(path) for _, path in rows]})
    np.testing.assert_allclose(Predictor(probe, backbone).predict(table)[["0", "1"]], wanted, atol=1e-5)
    mean = np.sqrt(wanted * scored(backbone, adapter, rows))
    mean /= mean.sum(1, keepdims=True)
    np.testing.assert_allclose(Predictor(both, backbone).predict(table)[["0", "1"]], mean, atol=1e-5)
    assert wanted[: len(files)].std(0).max() > 1e-3, "the pictures are told apart"


def test_a_picture_may_be_given_in_many_ways(seeing, files):
    backbone, make = seeing
    predictor = Predictor(make(0), backbone)
    wanted = scored(backbone, predictor.adapter, [(ASKED[0], path) for path in files])
    for given in (str, lambda path: path, lambda p: p.read_bytes(), Image.open, lambda p: uri(p.read_bytes())):
        table = pd.DataFrame({"question": ASKED[0], "picture": [given(path) for path in files]}, dtype=object)
        np.testing.assert_allclose(predictor.predict(table)[["0", "1"]], wanted, atol=1e-5)
    served = TaskModel(predictor)
    for given in (lambda p: uri(p.read_bytes()), lambda p: base64.encodebytes(p.read_bytes()).decode()):
        table = pd.DataFrame({"question": ASKED[0], "picture": [given(path) for path in files]})
        np.testing.assert_allclose(served.table(table)[["0", "1"]], wanted, atol=1e-5)


def test_where_the_template_has_no_field_a_picture_is_all_that_is_asked(patches, files):
    backbone, make = patches
    predictor = Predictor(make(template="Is it red? A:"), backbone)
    assert predictor.columns == ("picture",)
    wanted = predictor.predict({"picture": [str(path) for path in files]})
    pd.testing.assert_frame_equal(predictor.predict([str(path) for path in files]), wanted)
    for one in (str(files[0]), files[0].read_bytes(), Image.open(files[0]), files[0]):
        pd.testing.assert_frame_equal(predictor.predict(one), wanted[:1])


def test_a_written_answer_sees_the_picture(patches, files):
    backbone, make = patches
    adapter = make(labels=[], words=[], answer_length=3)
    adapter.picture_in.data *= 30
    predictor = Predictor(adapter, backbone)
    rows = [{"question": "what is it", "picture": picture_at(path)} for path in files]
    assert len({answer.label for answer in predictor.answers(rows)}) > 1


def test_a_field_called_picture_keeps_its_name(patches, files):
    backbone, make = patches
    predictor = Predictor(make(template="{picture} A:"), backbone)
    assert predictor.columns == ("picture", "picture_")
    assert len(predictor.predict([{"picture": "a text", "picture_": str(files[0])}])) == 1


# --- what is refused


def test_a_bad_picture_is_told_by_its_row_in_one_line(patches, files, tmp_path):
    backbone, make = patches
    predictor = Predictor(make(), backbone)
    wrong = {
        "missing": (None, "picture is missing. Remedy: give a table with the columns question, picture"),
        "no file": (str(tmp_path / "none.png"), "no such file"),
        "a bomb": (bomb(), "picture: more than 64,000,000 pixels. Remedy: make it smaller"),
        "no picture": (b"not one", "not a picture that can be read"),
        "truncated": (saved(Image.effect_noise((64, 64), 90))[:-900], "a damaged or truncated picture"),
        "a list": ([1, 2], "no picture. Remedy: give its file's name, its bytes, or a picture of Pillow"),
        "empty": (b"", "its bytes are empty"),
        "32 bits": (Image.new("F", (8, 8)), "its pixels are 32-bit numbers"),
        "a damaged URI": ("data:image/png;base64,!!", "the base64 of picture is damaged"),
        "another URI": ("data:image/png,abc", "is a data: URI that is not in base64"),
    }
    for given, said in wrong.values():
        rows = [{"question": "a", "picture": str(files[0])}, {"question": "a", "picture": given}]
        with pytest.raises(InputError) as raised:
            predictor.predict(rows)
        assert str(raised.value).startswith("predict: row 1: picture"), raised.value
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)
        assert ". Remedy: " in str(raised.value) or "; check the name" in str(raised.value)
    with pytest.raises(InputError, match="row 0: picture is missing"):
        predictor.predict("a text alone")


def test_a_server_opens_no_file_that_a_request_names(patches, files, tmp_path, monkeypatch):
    """Names that are files here, in every form that a client might try; good rows beside them are answered."""
    backbone, make = patches
    predictor = Predictor(make(), backbone)
    served = TaskModel(predictor)
    opened = []

    def watched(first):
        return lambda name, *given, **named: opened.append(str(name)) or first(name, *given, **named)

    for module, name in ((io, "open"), (builtins, "open"), (os, "open"), (os, "stat"), (pathlib.Path, "stat")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    (tmp_path / "abcd").write_bytes(files[0].read_bytes())  # letters of base64
    monkeypatch.chdir(tmp_path)
    names = [str(files[0]), "a.png", "abcd", "/etc/passwd", f"file://{files[0]}", f"data:{files[0]}", "../a.png"]
    names += [{"path": str(files[0])}, files[0], [str(files[0])], picture_at(files[0])]
    good = {"question": "is it red", "picture": uri(files[0].read_bytes())}
    rows = [good, *({"question": "a", "picture": name} for name in names), {"question": "a"}, good]
    opened.clear()
    table = served.table(pd.DataFrame(rows, dtype=object))
    assert not [name for name in opened if name == "/etc/passwd" or name.endswith(("a.png", "abcd"))]
    pathlib.Path("abcd").read_bytes()
    assert opened[-1] == "abcd", "what is opened is seen"
    assert list(table["label"].notna()) == [True, *[False] * (len(names) + 1), True]
    assert list(table["0"][[0, len(rows) - 1]]) == pytest.approx(
        [scored(backbone, predictor.adapter, [("is it red", files[0])])[0, 0]] * 2, abs=1e-5
    )
    said = [line for line in table["error"] if line]
    assert all(line.startswith("picture") and "Remedy: " in line and "\n" not in line for line in said), said
    assert said[0].endswith("which is no base64, and no file is opened for a request. Remedy: send its bytes as "
                            "base64, or data:image/png;base64,... (`base64 -w 0 FILE` prints it)")  # fmt: skip
    with pytest.raises(RefusedError, match="predict: row 0: picture is '/etc/passwd', which is no base64"):
        served.table([{"question": "a", "picture": "/etc/passwd"}])


def test_a_picture_that_cannot_be_seen_spoils_no_other_row(patches, files, monkeypatch):
    backbone, make = patches
    served = TaskModel(Predictor(make(), backbone))
    speed = served.gate.speed
    bodies = [files[2].read_bytes(), files[2].read_bytes()[:-300], bomb(), b"text", files[0].read_bytes()]
    table = served.table([{"question": "is it", "picture": uri(body)} for body in bodies])
    assert list(table["label"].notna()) == [True, False, False, False, True]
    assert [line and line[:9] for line in table["error"]] == [None, *["picture: "] * 3, None]
    assert served.gate.speed < 3 * speed, "what is refused tells nothing of how fast answers are"
    monkeypatch.setattr(type(backbone), "positions", 20)  # too few for a picture beside a long text
    long = {"question": "is it " * 9, "picture": uri(bodies[0])}
    table = served.table([{"question": "is it", "picture": uri(bodies[0])}, long])
    assert table["error"][1].startswith("picture: it takes 4 positions, with its text and what stands before it 3")
    assert table["error"][1].endswith("and backbone tiny-gpt2 has 20. Remedy: a smaller picture, or a shorter text")
    assert table["label"][0] is not None


def test_a_header_costs_a_server_nothing(tmp_path, monkeypatch):
    """65 bytes that claim 64 million pixels had the processor run on a blank of that size before they were refused."""
    backbone = Backbone.from_pretrained(str(save_seeing(tmp_path / "llava", "llava")), device="cpu")
    predictor = Predictor(adapter_of(backbone, 0), backbone)
    sizes = []
    monkeypatch.setattr(backbone.tokens.processor, "block_ids", lambda size: sizes.append(size) or (1, 2))
    rows = [{"question": "is it", "picture": picture_of(bomb(8000, 8000 - at))} for at in range(3)]
    cost = [cost_of([(predictor, row) for row in some]) for some in (rows[:1], rows, rows[:1] * 3)]
    assert sizes
    assert all(max(size) < 100 for size in sizes)
    assert cost[1] > 2.9 * cost[0]
    assert cost[2] < 1.1 * cost[0], "one picture is decoded once, however many ask about it"


def test_more_rows_than_a_server_takes_are_refused_before_one_is_looked_at(patches, monkeypatch):
    backbone, make = patches
    served = TaskModel(Predictor(make(), backbone))
    monkeypatch.setattr(served.gate, "check_rows", lambda rows: (_ for _ in ()).throw(RefusedError(f"{rows} rows")))
    monkeypatch.setattr(pictures, "_meant", lambda *_: pytest.fail("looked at"))
    with pytest.raises(RefusedError, match="3 rows"):
        served.table([{"question": "is it", "picture": uri(png(1))}] * 3)


def test_blanks_in_base64_take_no_memory():
    tracemalloc.start()
    with pytest.raises(InputError):
        pictures.picture_of_cell("aa " * 1_000_000, "picture", files=False)
    assert tracemalloc.get_traced_memory()[1] < 15_000_000
    tracemalloc.stop()
    assert pictures.picture_of_cell(uri(png(1)).replace("AA", "A \nA"), "picture", files=False) == picture_of(png(1))


def test_a_name_where_a_picture_belongs_is_refused(patches):
    backbone, make = patches
    predictor = Predictor(make(), backbone)
    with pytest.raises(InputError, match=r"picture is 'photo.png', no picture\. Remedy"):
        predictor.answers([{"question": "is it", "picture": "photo.png"}])


def test_what_cannot_see_is_refused_when_it_is_loaded(patches, tmp_path):
    backbone, _ = patches
    with pytest.raises(InputError, match=r"the backbone tiny-gpt2 reads none here .*Remedy: the one that it was train"):
        Predictor(adapter_of(backbone, 0), backbone)
    sight = looked_up(PictureMap(grid=2, rank=3, encoder=encoder_at(tmp_path / "clip")))
    adapter = adapter_of(backbone, 0, sight)
    gone = sight.model_copy(update={"encoder": str(tmp_path / "gone"), "encoder_id": "0" * 64})
    adapter.sees = gone
    with pytest.raises(InputError, match=r"gone"):
        Predictor(adapter, backbone)


def test_bytes_are_kept_by_nothing(seeing):
    """What remembers pictures remembers what was made of them, under their sha256."""
    import gc

    from tasks.pictures import HeldPicture

    backbone, make = seeing
    predictor = Predictor(make(0), backbone)
    predictor.predict([{"question": "a", "picture": png(seed)} for seed in range(40)])
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is HeldPicture]


def test_the_example_is_a_picture():
    head, _, body = example_picture().partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (8, 8)
    assert len(json.dumps(example_picture())) < 300
    assert picture_of(base64.b64decode(body)) == picture_of(base64.b64decode(body), "elsewhere")


def test_the_request_that_the_readme_shows_holds_its_picture(tmp_path):
    """As a shell makes it, with the file beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^    curl (?:[^\n]|\n {8})*base64(?:[^\n]|\n {8})*$", text, re.M)
    (tmp_path / "photo.png").write_bytes(body := png(3, (40, 30)))
    script = re.sub(r"^ *curl .* -d ", "printf %s ", shown)
    said = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (row,) = json.loads(said)["dataframe_records"]
    task = get_task(row.pop("task"))
    assert task.sees
    assert row_of(row, task.fields, "picture") == {"text": row["text"], "picture": picture_of(body)}
