"""The store: whole and checked, or a reason in one line."""

import errno
import hashlib
import json
import shutil
import uuid
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.settings import home
from registry import store as module
from registry.store import SUMS, LostFileError, Store, digest_of

KEY = f"adapters/{'a' * 64}/1-0123abcd"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request, tmp_path, monkeypatch):
    """A folder by its path, the same as an URL, a store that is no disk, and a bucket of a real server."""
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        return Store.open(server.bucket())
    name = uuid.uuid4().hex
    url = {
        "folder": str(tmp_path / "store"),
        "file": (tmp_path / "store").as_uri(),
        "memory": f"memory://{name}/below",
    }
    return Store.open(url[request.param])


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"tensors")
    (folder / "deep" / "adapter.json").write_text("{}")
    return folder


def contents(folder):
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file() and f.name != SUMS
    }


def spoil(store, key, name="adapter.safetensors", payload=b"tensorz"):
    store.system.pipe_file(f"{store.root.rstrip('/')}/{key}/{name}", payload)


def test_a_folder_comes_back_as_it_was(store, made):
    assert not store.exists(KEY)
    store.put_folder(made, KEY)
    store.put_folder(made, KEY)  # the same again
    assert store.exists(KEY)
    assert contents(store.fetch(KEY)) == contents(made)
    shutil.rmtree(made)
    assert Store.open(store.url).fetch(KEY).is_dir()


def test_the_default_is_below_home_or_what_the_settings_say(monkeypatch, made, tmp_path):
    Store.open().put_folder(made, KEY)
    assert Store.open().fetch(KEY) == home() / "store" / KEY
    monkeypatch.setenv("DEPT_STORE", str(tmp_path / "elsewhere"))
    assert not Store.open().exists(KEY)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_kept_by_its_sha256(store, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "x"}\n')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    store.put_file(file, f"rows/{digest}")
    assert store.fetch(f"rows/{digest}").read_text() == '{"text": "x"}\n'
    with pytest.raises(InputError, match="names another content"):
        store.put_file(file, f"rows/{'0' * 64}")
    assert not store.exists(f"rows/{'0' * 64}")


def test_a_store_that_is_not_mounted_is_not_a_lost_file(made, tmp_path):
    store = Store.open(str(tmp_path / "share"))
    store.put_folder(made, KEY)
    (tmp_path / "share").rename(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"not there.*mount it") as caught:
        store.fetch(KEY)
    assert not isinstance(caught.value, LostFileError)
    (tmp_path / "share").mkdir()
    with pytest.raises(LostFileError):
        store.fetch(KEY)
    with pytest.raises(LostFileError):
        Store.open().fetch(KEY)


def test_what_is_missing_is_named(store, made):
    store.put_folder(made, "adapters/other")
    with pytest.raises(LostFileError, match=f"{KEY} is missing") as caught:
        store.fetch(KEY)
    assert (caught.value.key, caught.value.aside) == (KEY, None)
    assert store.quarantine(KEY) == ""


@pytest.mark.parametrize("harm", ["altered", "cut", "gone", "sums", "sums-lost"])
def test_what_is_damaged_is_put_aside_and_named(store, made, harm):
    store.put_folder(made, KEY)
    place = f"{store.root.rstrip('/')}/{KEY}"
    if harm in ("altered", "cut"):
        spoil(store, KEY, payload=b"tensorz" if harm == "altered" else b"tens")
    elif harm == "gone":
        store.system.rm_file(f"{place}/adapter.safetensors")
    elif harm == "sums":
        spoil(store, KEY, SUMS, b"{")
    else:
        store.system.rm_file(f"{place}/{SUMS}")
    with pytest.raises(LostFileError) as caught:
        store.fetch(KEY)
    assert caught.value.key == KEY
    if harm == "sums-lost":
        assert "missing" in str(caught.value)
    else:
        assert caught.value.aside in str(caught.value)
        assert store.system.exists(caught.value.aside)
    assert not store.exists(KEY)
    store.put_folder(made, KEY)  # made anew
    assert contents(store.fetch(KEY)) == contents(made)


def test_files_that_were_altered_with_their_sums_are_known_by_the_digest(store, made):
    digest = store.put_folder(made, KEY)
    assert store.put_folder(made, KEY) == digest == digest_of(made) == digest_of(store.fetch(KEY, digest))
    spoil(store, KEY)
    sums = {
        name: hashlib.sha256(b"tensorz" if "tensors" in name else body).hexdigest()
        for name, body in contents(made).items()
    }
    spoil(store, KEY, SUMS, json.dumps(sums).encode())
    assert store.fetch(KEY).is_dir(), "the sums alone do not tell"
    with pytest.raises(LostFileError, match="recorded") as caught:
        store.fetch(KEY, digest)
    assert store.system.exists(caught.value.aside)


def test_a_fetched_copy_that_was_damaged_is_fetched_again(made):
    store = Store.open(f"memory://{uuid.uuid4().hex}")
    store.put_folder(made, KEY)
    copy = store.fetch(KEY)
    assert copy.is_relative_to(home())
    (copy / "adapter.safetensors").write_bytes(b"no")
    assert contents(store.fetch(KEY)) == contents(made)


def test_two_stores_do_not_share_a_copy(made, tmp_path):
    one, two = (Store.open(f"memory://{uuid.uuid4().hex}") for _ in range(2))
    one.put_folder(made, KEY)
    (made / "adapter.safetensors").write_bytes(b"other")
    two.put_folder(made, KEY)
    first, second = one.fetch(KEY), two.fetch(KEY)
    assert (first / "adapter.safetensors").read_bytes() == b"tensors"
    assert (second / "adapter.safetensors").read_bytes() == b"other"


def test_other_content_under_a_key_puts_the_older_aside(store, made):
    store.put_folder(made, KEY)
    (made / "adapter.safetensors").write_bytes(b"other")
    store.put_folder(made, KEY)
    assert contents(store.fetch(KEY)) == contents(made)
    assert len(store.system.ls(f"{store.root.rstrip('/')}/quarantine", detail=False)) == 1


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../outside",
        "adapters/../../outside",
        "adapters//x",
        "a/./b",
        ".hidden",
        "a\\b",
        "a b",
        "~/x",
        "s3://x",
    ],
)
def test_a_key_is_never_a_path_elsewhere(store, made, key):
    for call in (
        lambda: store.put_folder(made, key),
        lambda: store.fetch(key),
        lambda: store.exists(key),
        lambda: store.quarantine(key),
    ):
        with pytest.raises(InputError, match="no key of the store"):
            call()


def test_sums_that_name_a_file_elsewhere_are_damage(store, made, tmp_path):
    store.put_folder(made, KEY)
    spoil(store, KEY, SUMS, b'{"../../../../outside": "00"}')
    with pytest.raises(LostFileError, match="damaged"):
        store.fetch(KEY)
    assert not list(tmp_path.rglob("outside"))


def test_adapters_of_the_first_version_still_resolve(made):
    key = f"adapters/{'c' * 64}"
    shutil.copytree(made, home() / key)
    store = Store.open()
    assert store.exists(key)
    assert store.fetch(key) == home() / key
    assert Path(store.quarantine(key)).is_dir()
    assert not store.exists(key)


def test_a_full_disk_is_one_line_and_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store.open(str(tmp_path / "store"))
    monkeypatch.setattr(module.shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"cannot write adapters/.*No space left.*Remedy") as caught:
        store.put_folder(made, KEY)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [f for f in (tmp_path / "store").rglob("*") if f.is_file()] == []


def test_a_kill_while_writing_leaves_nothing_that_counts(made, tmp_path, monkeypatch):
    store = Store.open(str(tmp_path / "store"))
    copy, copied = module.shutil.copyfile, []

    def once(*args):
        if copied:
            raise KeyboardInterrupt
        copied.append(copy(*args))

    monkeypatch.setattr(module.shutil, "copyfile", once)
    with pytest.raises(KeyboardInterrupt):
        store.put_folder(made, KEY)
    monkeypatch.undo()
    assert not store.exists(KEY)
    store.put_folder(made, KEY)
    assert contents(store.fetch(KEY)) == contents(made)


def test_what_cannot_be_a_store_is_named(made, tmp_path):
    with pytest.raises(InputError, match=r"store martian://x.*Remedy"):
        Store.open("martian://x")
    (tmp_path / "file").write_text("x")
    store = Store.open(str(tmp_path / "file" / "store"))
    with pytest.raises(InputError, match=r"cannot write"):
        store.put_folder(made, KEY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        Store.open(str(tmp_path / "s")).put_folder(tmp_path / "empty", KEY)


def test_no_error_shows_a_secret():
    with pytest.raises(InputError) as caught:
        Store.open("martian://ada:s3cret@x/y?token=s3cret")
    assert "s3cret" not in str(caught.value)


def test_what_lies_below_a_key(store, made, tmp_path):
    assert store.names("seen/one") == []
    for name in ("b", "a"):
        store.put_folder(made, f"seen/one/{name}")
    store.put_folder(made, "seen/other/c")
    assert store.names("seen/one") == ["a", "b"]
    with pytest.raises(InputError):
        store.names("../seen")
