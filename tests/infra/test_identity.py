"""A process by a name that no other ever has."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from infra import identity
from infra.identity import host_prefix, is_gone, process_id


@pytest.fixture
def child():
    """A process that sleeps, and its name."""
    body = "from infra.identity import process_id; print(process_id(), flush=True); input()"
    made = subprocess.Popen([sys.executable, "-c", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield made, made.stdout.readline().strip()
    made.kill()
    made.communicate()


def test_a_name_says_where_and_which():
    host, boot, space, pid, start = process_id().split(":")
    assert (host, int(pid)) == (socket.gethostname(), os.getpid())
    assert process_id() == process_id()
    assert process_id().startswith(host_prefix())
    assert boot
    assert space
    assert start.isdecimal()


@pytest.mark.parametrize("reap", [True, False])
def test_a_death_is_seen_at_once(child, reap):
    made, name = child
    assert name == process_id(made.pid) != process_id()
    assert name.startswith(host_prefix())
    assert not is_gone(name)
    os.kill(made.pid, signal.SIGSTOP)
    assert not is_gone(name)  # stopped is not dead
    os.kill(made.pid, signal.SIGKILL)
    if reap:
        made.wait()
    else:
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name)


def test_a_reused_process_id_is_another_process():
    here, start = process_id().rsplit(":", 1)
    assert is_gone(f"{here}:{int(start) - 1000}")
    assert not is_gone(f"{here}:{start}")


def test_a_process_of_another_user_is_alive():
    """Process 1 is somebody else's wherever this is not run as root."""
    start = identity._start(1)
    assert not is_gone(f"{host_prefix()}1:{start}")
    assert is_gone(f"{host_prefix()}1:{start + 1000}")


def test_what_does_not_run_has_no_name(child):
    made, _ = child
    made.kill()
    made.wait()
    with pytest.raises(psutil.NoSuchProcess):
        process_id(made.pid)


@pytest.mark.parametrize("other", ["host", "boot", "space"])
def test_what_cannot_be_seen_from_here_is_not_judged(other):
    parts = dict(zip(("host", "boot", "space", "pid", "start"), process_id().split(":"), strict=True))
    parts |= {"pid": "4194303", other: "another"}
    assert not is_gone(":".join(parts.values()))


def test_two_containers_of_one_host_name_are_told_apart(monkeypatch, child):
    made, name = child
    made.kill()
    made.wait()
    monkeypatch.setattr(identity, "_namespace", lambda: "4026539999")
    assert not is_gone(name)


@pytest.mark.parametrize("name", ["", "x", "host:12:34.56", "a:b:c:d:e", ":::::", f"{'x' * 500}:1:1"])
def test_names_of_another_making_are_not_judged(name):
    assert not is_gone(name)


def test_the_clock_may_be_set_without_harm(monkeypatch):
    import time

    name, clock = process_id(), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    assert process_id() == name
    assert not is_gone(name)
