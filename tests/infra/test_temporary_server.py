"""One temporary Prefect server for all runs of a home: started once, shared, and gone with its last user."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra import temporary_server
from infra.errors import InputError
from infra.prefect_api import client
from infra.settings import home
from infra.temporary_server import first_start, prefect_api

USER = """
import sys, time
from pathlib import Path
from infra.prefect_api import client
from infra.temporary_server import prefect_api
def wait(file):
    while not Path(file).exists():
        time.sleep(0.01)
Path(sys.argv[1] + ".ready").touch()
wait(sys.argv[2] + ".begin")
with prefect_api() as url:
    with client() as asked:
        assert str(asked.api_url).rstrip("/") == url, asked.api_url
        asked.read_flow_runs()  # its database is there
    Path(sys.argv[1] + ".new").write_text(url)
    Path(sys.argv[1] + ".new").rename(sys.argv[1])
    wait(sys.argv[2])
"""


@pytest.fixture(autouse=True)
def _foreign_settings(monkeypatch, in_prefect_home):
    """What a person has set for other servers must not reach the temporary one."""
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")


def user(folder: Path, number: int) -> subprocess.Popen:
    root = str(Path(temporary_server.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", USER, str(folder / f"{number}.url"), str(folder / "end")]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def urls_of(users: list[subprocess.Popen], folder: Path) -> list[str]:
    """What each has got, all having asked at the same moment."""
    files = [folder / f"{number}.url" for number in range(len(users))]
    deadline = time.monotonic() + 200
    for wanted in ([file.with_name(f"{file.name}.ready") for file in files], files):
        while not all(file.exists() for file in wanted):
            assert all(one.poll() is None for one in users), [one.stderr.read() for one in users if one.poll()]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (folder / "end.begin").touch()
    return [file.read_text() for file in files]


def servers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "infra.temporary_server" in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE:
            try:
                found += [process] if process.environ().get("DEPT_HOME") == str(home()) else []
            except psutil.Error:
                continue
    return found


def gone(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while servers():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_three_at_once_in_a_new_home_share_one_and_end_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "new"))
    users = [user(tmp_path, number) for number in range(3)]
    try:
        assert len(set(urls_of(users, tmp_path))) == 1
        assert len(servers()) == 1
        users[0].kill()  # who goes without a word takes nothing from the others
        users[0].wait()
        time.sleep(3 * temporary_server.LOOK_SECONDS)
        assert len(servers()) == 1
        (tmp_path / "end").touch()
        assert [one.wait(60) for one in users[1:]] == [0, 0], [one.stderr.read() for one in users[1:]]
        assert servers() == []  # the last one out has ended it
    finally:
        for one in users:
            one.kill()
            one.stderr.close()
    assert not list((home() / "prefect" / "temporary").rglob("*.json"))


def test_killed_users_and_killed_servers_leave_nothing_in_the_way(tmp_path):
    users = [user(tmp_path, number) for number in range(2)]
    try:
        urls_of(users, tmp_path)
        for one in users:
            one.kill()
            one.wait()
        assert gone(10)  # nobody was left to end it
        with prefect_api() as url:  # files of the dead are in the way of nobody
            (server,) = servers()
            record = next((home() / "prefect" / "temporary").glob("*.json"))
            left = record.read_text()
            assert json.loads(left)["url"] == url
            server.send_signal(signal.SIGKILL)
            assert gone(10)
        record.write_text(left)  # as a kill of everything leaves it
        (record.with_suffix(".users") / "half-written").touch()
        with prefect_api() as other:
            assert other != url
            with prefect_api() as again, client() as asked:  # twice in one process
                assert again == other
                assert asked.api_healthcheck() is None
            assert len(servers()) == 1
        assert servers() == []
        assert not list((home() / "prefect" / "temporary").rglob("*.*/*"))
    finally:
        for one in users:
            one.kill()
            one.stderr.close()


def test_a_server_that_cannot_start_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "prefect" / "prefect.db").mkdir(parents=True)  # a folder where the database should be
    with pytest.raises(InputError, match=r"no Prefect server could be started.*prefect-temporary\.log"), prefect_api():
        pass
    assert servers() == []


def test_the_lock_is_waited_for_and_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "other"))
    with first_start(), pytest.raises(InputError, match=r"start\.lock"), first_start(0.1):
        pass
    with first_start(0.1):
        pass


def test_a_configured_server_that_is_away_is_named_without_its_password(monkeypatch, capsys):
    from contextlib import nullcontext

    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(temporary_server, "_user", lambda: nullcontext("http://127.0.0.1:2/api"))
    with temporary_settings({PREFECT_API_URL: "http://me:s3cr3t@127.0.0.1:1/api"}), prefect_api() as url:
        assert url == "http://127.0.0.1:2/api"
    told = capsys.readouterr().err.replace("\n", " ")
    assert "does not answer" in told
    assert "s3cr3t" not in told
