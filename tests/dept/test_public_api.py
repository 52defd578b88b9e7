"""`from dept import ...` gives the whole of the product in Python, and costs nothing until it is used."""

import doctest
import json
import subprocess
import sys

import pytest

import dept

NAMES = ["Adapter", "AdapterConfig", "Backbone", "PictureMap", "Request", "TrainConfig", "Trial"]
NAMES += ["generate", "score", "train"]
TIMED = """
import sys, time
began = time.perf_counter()
import dept
seconds = time.perf_counter() - began
import json
print(json.dumps([seconds, "torch" in sys.modules, "transformers" in sys.modules, dir(dept)]))
"""


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_it_is_quick_and_brings_no_torch():
    seconds = []
    for _ in range(5):  # the machine may be busy for a moment
        took, torch, transformers, names = fresh(TIMED)
        assert not torch
        assert not transformers
        assert set(NAMES) <= set(names)
        seconds.append(took)
    assert min(seconds) < 0.05


def test_planning_brings_no_torch(tiny_folders):
    """What a controller asks of a backbone: what it is, and its texts as tokens."""
    code = f"""
import json, sys
from dept import AdapterConfig, TrainConfig
from dept.backbones.describe import describe
from dept.batches.tokenise import encode
info = describe({str(tiny_folders["llama"])!r}, dtype="float32")
rows = encode(info.tokens, ["the film was good"], ("negative", "positive"), [1], AdapterConfig())
print(json.dumps([info.d, info.family, len(rows), "torch" in sys.modules]))
"""
    assert fresh(code) == [32, "causal", 1, False]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_answers_help(name):
    assert name in dept.__all__
    found = getattr(dept, name)
    assert len(found.__doc__.splitlines()) > 3
    if name not in ("AdapterConfig", "TrainConfig"):
        assert doctest.DocTestParser().get_examples(found.__doc__), "an example"
    if name in ("train", "score", "generate"):
        assert "Raises:" in found.__doc__


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="Adaptor"):
        dept.Adaptor  # noqa: B018
    with pytest.raises(ImportError):
        from dept import Workshop  # noqa: F401
