"""One worker a device: real processes, and as many devices as the test says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import devices, gpus
from infra.devices import every, hold, release
from infra.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import os, sys
from infra.devices import hold
count, wait = int(sys.argv[1]), sys.argv[2] == "wait"
try:
    hold(count, wait=wait, say=lambda line: print("says", line, flush=True))
except Exception as error:
    print("refused", error, flush=True)
else:
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _lets_go(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "unset")  # so that what a test's lock sets is taken back
        monkeypatch.delenv(name)
    yield
    release()


@pytest.fixture
def worker():
    running = []

    def start(count=1, wait="refuse"):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(count), wait],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def said(process):
    return process.stdout.readline().strip()


def test_each_worker_gets_a_device_of_its_own_and_the_kernel_frees_that_of_a_killed_one(worker, monkeypatch):
    monkeypatch.setenv("DEPT_DEVICES", "0,1,2")
    three = [worker() for _ in range(3)]
    got = {said(process).split()[0]: process for process in three}
    assert set(got) == {"0", "1", "2"}
    fourth = said(worker())
    assert fourth.startswith("refused devices: all 3 CUDA devices of this machine are taken (by process ")
    assert all(str(process.pid) in fourth for process in three)
    waits = worker(wait="wait")
    assert "says All 3 CUDA devices of this machine are taken" in said(waits)
    got["1"].kill()
    assert said(waits).split()[0] == "1"


def test_ranks_hold_several_or_none(worker, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5,6")
    assert said(worker(2)).split()[0] == "4,GPU-5"
    assert said(worker(2)).startswith("refused devices: all 3 CUDA")  # and keeps none of them
    assert said(worker(1)).split()[0] == "6"
    assert said(worker(4)).startswith("refused devices: 4 are needed, this machine has 3 (4, GPU-5, 6). Remedy:")


def test_on_the_processor_slots_and_threads_are_settings(worker, monkeypatch):
    monkeypatch.setenv("DEPT_CPU_SLOTS", "2")
    monkeypatch.setenv("DEPT_CPU_THREADS", "3")
    assert [said(worker()) for _ in range(2)] == ["3", "3"]  # of CUDA nothing is visible
    assert "all 2 CPU slots of this machine are taken" in (told := said(worker()))
    assert "DEPT_CPU_SLOTS" in told
    monkeypatch.setenv("DEPT_LOCKS", os.environ["DEPT_LOCKS"] + "-others")
    monkeypatch.delenv("DEPT_CPU_THREADS")
    assert said(worker()) == str(max(1, len(os.sched_getaffinity(0)) // 2))


@pytest.mark.parametrize(
    ("asked", "visible", "found"),
    [
        (None, None, (False, ["0"])),
        (None, "", (False, ["0"])),
        (None, "-1", (False, ["0"])),
        (None, "1, 3", (True, ["1", "3"])),
        ("0,1,0", "5", (True, ["0", "1"])),
        ("cpu", "0,1", (False, ["0"])),
        ("00,0,1", None, (True, ["0", "1"])),
        (None, "0,-1,1", (True, ["0"])),  # as CUDA reads it
    ],
)
def test_which_devices_there_are(monkeypatch, asked, visible, found):
    for name, value in (("DEPT_DEVICES", asked), ("CUDA_VISIBLE_DEVICES", visible)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices.Path, "glob", lambda *_: iter(()))
    assert every() == found


def test_those_that_the_machine_shows(monkeypatch):
    monkeypatch.setattr(devices.Path, "glob", lambda *_: iter([Path("/dev/nvidia0"), Path("/dev/nvidia1")]))
    assert every() == (True, ["0", "1"])
    assert every(cpu=True) == (False, ["0"])


def test_a_card_has_one_lock_however_it_is_named(monkeypatch, tmp_path):
    for place, uuid in (("0000:01:00.0", "GPU-aa11-22"), ("0000:02:00.0", "GPU-bb33-44")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t NVIDIA X\nGPU UUID: \t {uuid}\n")
    monkeypatch.setattr(gpus, "_CARDS", tmp_path)
    monkeypatch.setenv("DEPT_DEVICES", "1")
    assert hold().names == ("1",)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    for same in ("1", "GPU-bb33-44", "gpu-bb", "01"):
        assert devices._try(True, [same], 1) is None
    assert gpus.listed("GPU-aa,0,1") == ["GPU-aa", "1"]
    for free in ("0", "GPU-aa"):
        (file,) = devices._try(True, [free], 1).values()
        os.close(file)


def test_what_is_held_is_held_once_and_cannot_grow(monkeypatch):
    monkeypatch.setenv("DEPT_DEVICES", "0,1,2")
    assert hold(only="1").names == ("1",)
    assert hold() is devices.mine()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(InputError, match=r"2 are needed, this worker holds 1 \(1\)"):
        hold(2)
    release()
    release()
    assert devices.mine() is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert hold(2).names == ("0", "1")


def test_a_run_by_hand_takes_no_place_on_the_processor(monkeypatch):
    monkeypatch.setenv("DEPT_DEVICES", "cpu")
    assert hold(cuda_only=True) is None
    assert devices.mine() is None


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch):
    monkeypatch.setenv("DEPT_LOCKS", "/proc/none")
    with pytest.raises(InputError, match=r"/proc/none/cpu-0.lock: the lock of a device cannot.*Remedy: set DEPT_LOCKS"):
        hold()
