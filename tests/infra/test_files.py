"""Files and folders are written whole and durably, or not at all."""

import os
import threading
import time

import pytest

from infra import files, service_records
from infra.files import new_file, new_folder, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_in_one_step(tmp_path):
    file = tmp_path / "deep" / "state.json"
    write_text(file, "é")
    assert file.read_bytes() == "é".encode()
    file.chmod(0o600)
    write_bytes(file, b"new")
    assert file.read_bytes() == b"new"
    assert names(file.parent) == ["state.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    write_text(file, "old")

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(file, "new")
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_content_is_durable_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    told, sync, replace = [], os.fsync, files.Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (told.append(os.path.realpath(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr(files.Path, "replace", lambda self, to: (told.append("renamed"), replace(self, to))[1])
    write_text(tmp_path / "a", "x")
    assert told[1:] == ["renamed", str(tmp_path)]
    assert told[0].startswith(str(tmp_path / ".a.new-"))


def test_many_writers_leave_one_whole_file(tmp_path):
    file = tmp_path / "a"
    payloads = [bytes([i]) * 100_000 for i in range(6)]
    threads = [threading.Thread(target=write_bytes, args=(file, payload)) for payload in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in payloads
    assert names(tmp_path) == ["a"]


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path):
    place = tmp_path / "deep" / "adapter"
    with new_folder(place) as made:
        (made / "in").mkdir()
        (made / "in" / "x").write_text("1")
        assert not place.exists()
    assert (place / "in" / "x").read_text() == "1"
    with new_folder(place) as made:
        (made / "y").write_text("2")
        assert (place / "in" / "x").exists()
    assert names(place) == ["y"]
    assert names(place.parent) == ["adapter"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    place = tmp_path / "adapter"
    with new_folder(place) as made:
        (made / "x").write_text("1")

    def fill():
        with new_folder(place) as made:
            (made / "x").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert (place / "x").read_text() == "1"
    assert names(tmp_path) == ["adapter"]


def test_every_file_of_a_folder_is_durable_before_its_name(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.path.realpath(f"/proc/self/fd/{fd}")), sync(fd)))
    with new_folder(tmp_path / "a") as made:
        (made / "in").mkdir()
        (made / "in" / "x").write_text("1")
    assert [path.removeprefix(str(made)) for path in synced] == ["/in/x", "/in", "", str(tmp_path)]


def test_what_a_killed_process_left_long_ago_is_swept(tmp_path):
    old, fresh, other = (tmp_path / name for name in (".a.new-1-ff", ".a.new-2-ff", ".b.new-1-ff"))
    for folder in (old, fresh, other):
        folder.mkdir()
    long_ago = time.time() - 100_000
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    with new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".a.new-2-ff", ".b.new-1-ff", "a"]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "answers.csv", "old")

    def half():
        with new_file(tmp_path / "answers.csv") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "answers.csv").read_text() == "old"
    assert names(tmp_path) == ["answers.csv"]


def test_records_of_services_survive_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path))
    service_records.ServiceRecords("old").write()

    def full(_):
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            service_records.ServiceRecords("new").write()
    assert service_records.ServiceRecords.read().token == "old"
    assert names(tmp_path) == ["services.json"]
