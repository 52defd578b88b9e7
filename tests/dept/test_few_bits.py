"""Frozen weights of 8 and 4 bits give nearly the numbers of whole ones, and adapters learn on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_backbone

HERE = Path(__file__).parents[2]
LIBRARIES = HERE / ".venv" / "few-bits"
FAR = {"int8": 0.3, "int8-torchao": 0.3, "nf4": 2.0}  # nats of scores about 9 apart at most
OF_WHOLE = {"int8": 0.65, "nf4": 0.45, "int8-torchao": 1.0}  # bytes; torchao's count as what they stand for


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What tests/few_bits.py says of each number type."""
    if not LIBRARIES.is_dir():
        pytest.skip("bitsandbytes and torchao are not in .venv/few-bits, where make test puts them from PyPI")
    folder = save_backbone(tmp_path_factory.mktemp("few") / "tiny-llama", "llama", width=64)
    paths = [str(HERE), str(LIBRARIES), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.few_bits", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("dtype", list(FAR))
def test_few_bits_score_and_learn(found, dtype):
    of, whole = found[0][dtype], found[0]["bfloat16"]
    assert (of["bits"], of["rows"]) == (dtype, "packed")
    assert of["bytes"] <= OF_WHOLE[dtype] * whole["bytes"]
    apart = [
        abs(a - b)
        for got, right in zip(of["together"], whole["together"], strict=True)
        for a, b in zip(got, right, strict=True)
    ]
    assert 1e-3 < max(apart) < FAR[dtype]  # other weights, and not by much
    mixed = [
        abs(a - b) for got, one in zip(of["together"], of["alone"], strict=True) for a, b in zip(got, one, strict=True)
    ]
    assert max(mixed) < 0.1  # what else is in a batch changes roundings alone
    assert of["losses"][-1] < 0.05 < 0.5 < of["losses"][0]


def test_they_say_nothing_for_each_matrix(found):
    assert "MatMul8bitLt" not in found[1]


def test_weights_that_pass_no_gradient_are_refused(found):
    if not (without := found[0]["without"])["fast"]:
        pytest.skip("this CPU has no AVX512-BF16, so bitsandbytes has no kernel without a derivative here")
    assert "has quantised weights that pass no gradient, so no prompt can learn" in without["said"]
