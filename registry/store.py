"""The store: adapters, checkpoints and rows of own tasks by key, whole and checked, on a disk or in a bucket."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import InputError
from infra.files import new_folder, sync
from infra.settings import home, settings

SUMS = "sha256.json"  # of each file below a key; written last, so its presence says that the thing is whole
_ASIDE = "quarantine"
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_OLD = re.compile(r"adapters/[0-9a-f]{64}")  # keys of 0.1.0, which kept adapters in the home itself


class LostFileError(InputError):
    """A thing that the store should hold is missing or damaged. `aside` is where the damaged one was put, if any."""

    def __init__(self, key: str, message: str, aside: str | None = None) -> None:
        super().__init__(message)
        self.key, self.aside = key, aside


class Store:
    """Files by key. A key is a relative path such as `adapters/<fingerprint>/<attempt>`; what it names never changes.

    Args:
        url: a folder, or an URL that fsspec knows (file://, s3://, gs://, memory://).
        make: a folder that is not there is an empty store, not one that is not mounted.

    Raises:
        InputError: an URL of an unknown kind, or one whose driver is not installed.
    """

    def __init__(self, url: str, make: bool = False) -> None:
        self.url, self._make = url, make
        try:
            # Other machines write there: no listing is believed a second time.
            options = {"use_listings_cache": False} if "://" in url and not url.startswith("file://") else {}
            place = url if "://" in url else str(Path(url).absolute())
            self.system, self.root = fsspec.core.url_to_fs(place, **options)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"store {url}: no place that is known here ({error}). Remedy: set DEPT_STORE to a folder, or to an URL "
                "(file://, s3://, gs://) whose driver is installed"
            ) from error
        self.local = isinstance(self.system, LocalFileSystem)

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """The store at `url`; default $DEPT_STORE, else home()/store. Makes nothing yet."""
        url = url or settings().store
        return cls(url) if url else cls(str(home() / "store"), make=True)

    def put_folder(self, folder: str | Path, key: str) -> str:
        """Keep a copy of a folder under a key; returns when it is durable and whole.

        What is there already stays if it is the same, and is put aside if it is not.

        Returns:
            The folder's digest (`digest_of`), by which `fetch` knows it from an altered one.

        Raises:
            InputError: a key that is no plain relative path, a store that cannot be written, an empty folder.
        """
        folder = Path(folder)
        files = _files(folder)
        if not files:
            raise InputError(f"store: {folder} holds no file, so nothing is kept as {key}")
        return self._put(files, key)

    def put_file(self, file: str | Path, key: str) -> None:
        """Keep a copy of one file under a key; a last part of 64 hex digits must be its sha256. As `put_folder`."""
        name = key.rpartition("/")[2]
        if re.fullmatch("[0-9a-f]{64}", name) and (found := _sum(Path(file))) != name:
            raise InputError(f"store: {key} names another content than {file} has ({found[:12]})")
        self._put({"content": Path(file)}, key)

    def fetch(self, key: str, digest: str = "") -> Path:
        """A local folder, or for `put_file` a local file, with what a key names; its sha256 sums are checked.

        Of a local store it is the place itself, of another one a copy in home()/fetched: do not write to it.

        Args:
            digest: what `put_folder` returned, kept elsewhere: sums that were altered with the files are found too.
                "": not known (ledgers from before it was kept).

        Raises:
            LostFileError: nothing there, or damaged or altered (then it has been put aside).
            InputError: a wrong key, or a store that cannot be read.
        """
        place = self._place(key)
        with self._told(f"read {key}"):
            sums = self._sums(place)
            if sums is None:
                if self.local and not self._make and not Path(self.root).is_dir():
                    raise InputError(
                        f"store {self.url}: the folder is not there. Remedy: mount it, or check DEPT_STORE; if its "
                        "files are lost, make an empty folder, and their trials are done again"
                    )
                if _OLD.fullmatch(key) and (older := home() / key).is_dir():
                    return older
                raise LostFileError(key, f"store {self.url}: {key} is missing")
            if digest and _digest(sums) != digest:
                raise self._damaged(key, "its sums are not those that were recorded")
            folder = Path(place) if self.local else self._copy(place, sums)
            if wrong := _wrong(folder, sums):
                raise self._damaged(key, wrong)
        return folder / "content" if set(sums) == {"content"} else folder

    def exists(self, key: str) -> bool:
        """Whether the store holds a whole thing under a key; its sums are not checked.

        Raises:
            InputError: a wrong key, or a store that cannot be read.
        """
        with self._told(f"look for {key}"):
            old = bool(_OLD.fullmatch(key)) and (home() / key).is_dir()
            return self._sums(self._place(key)) is not None or old

    def is_bare(self) -> bool:
        """Whether $DEPT_STORE names a place without any adapter: a store that is new, not mounted, or another one.

        Never so for the default store, which lies in the home itself.

        Raises:
            InputError: a store that cannot be read.
        """
        if self._make:
            return False
        with self._told("look for adapters"):
            return not self.system.exists(self._place("adapters"))

    def names(self, key: str) -> list[str]:
        """The last parts of the keys right below a key, sorted; none where there is nothing.

        Raises:
            InputError: a wrong key, or a store that cannot be read.
        """
        place = self._place(key)
        with self._told(f"look below {key}"):
            self.system.invalidate_cache()
            try:
                found = self.system.ls(place, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({str(one).rstrip("/").rpartition("/")[2] for one in found} - {""})

    def quarantine(self, key: str) -> str:
        """Put what a key names aside, so that it can be made anew; returns where it is now, "" if nothing was there.

        Raises:
            InputError: a wrong key, or a store that cannot be written.
        """
        place = self._place(key)
        with self._told(f"put {key} aside"):
            if not self.system.exists(place):
                older = home() / key
                if not (_OLD.fullmatch(key) and older.is_dir()):
                    return ""
                aside = home() / _ASIDE / f"{key.replace('/', '-')}-{secrets.token_hex(4)}"
                aside.parent.mkdir(parents=True, exist_ok=True)
                older.rename(aside)
                return str(aside)
            there = f"{self.root.rstrip('/')}/{_ASIDE}/{key.replace('/', '-')}-{secrets.token_hex(4)}"
            self.system.makedirs(there.rpartition("/")[0], exist_ok=True)
            if self.local:
                Path(place).rename(there)
            else:
                for file in self.system.find(place):  # one by one: a bucket has no folders that could be moved
                    self.system.mv(file, f"{there}{file[len(place) :]}")
            return there

    def _put(self, files: dict[str, Path], key: str) -> str:
        place = self._place(key)
        with self._told(f"write {key}"):
            sums = {name: _sum(file) for name, file in files.items()}
            if self._sums(place) == sums and not (self.local and _wrong(Path(place), sums)):
                return _digest(sums)
            if self.system.exists(place):
                self.quarantine(key)
            payload = _listed(sums)
            if self.local:
                with new_folder(place) as made:
                    for name, file in files.items():
                        (made / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, made / name)
                    (made / SUMS).write_bytes(payload)
                for parent in Path(place).parents:  # the folders above may be new as well
                    sync(parent)
                    if str(parent) == self.root:
                        break
                return _digest(sums)
            for name, file in files.items():
                self.system.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
                self.system.put_file(str(file), f"{place}/{name}")
            self.system.pipe_file(f"{place}/{SUMS}", payload)
            return _digest(sums)

    def _sums(self, place: str) -> dict[str, str] | None:
        try:
            body = json.loads(self.system.cat_file(f"{place}/{SUMS}"))
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in body):
                raise ValueError(body)
            return {str(name): str(digest) for name, digest in body.items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, AttributeError):
            return {SUMS: "unreadable"}  # the check that follows names it

    def _copy(self, place: str, sums: dict[str, str]) -> Path:
        # By content, so that stores that know other things by the same key do not meet.
        folder = home() / "fetched" / _digest(sums)
        if folder.is_dir() and not _wrong(folder, sums):
            return folder
        with new_folder(folder) as made:
            for name in sums:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the check that follows names it
                    self.system.get_file(f"{place}/{name}", str(made / name))
        return folder

    def _damaged(self, key: str, wrong: str) -> LostFileError:
        aside = self.quarantine(key)
        return LostFileError(key, f"store {self.url}: {key} is damaged ({wrong}); it was put aside as {aside}", aside)

    def _place(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise InputError(f"store: {key[:200]!r} is no key of the store: a relative path of plain names is one")
        return f"{self.root.rstrip('/')}/{key}"

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # each kind of store has errors of its own
            if not isinstance(error, OSError) and self.local:
                raise
            raise InputError(
                f"store {self.url}: cannot {what} ({_first_line(error)}). Remedy: free space, or check DEPT_STORE and "
                "its rights; the next run goes on from here"
            ) from error


def digest_of(folder: Path) -> str:
    """sha256 (hex) over the names and sha256 of all files of a folder, the list of sums itself apart."""
    return _digest({name: _sum(file) for name, file in _files(folder).items()})


def _files(folder: Path) -> dict[str, Path]:
    found = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: file for name, file in found.items() if name != SUMS}


def _digest(sums: dict[str, str]) -> str:
    return hashlib.sha256(_listed(sums)).hexdigest()


def _listed(sums: dict[str, str]) -> bytes:
    return json.dumps(sums, indent=1, sort_keys=True).encode()


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _wrong(folder: Path, sums: dict[str, str]) -> str:
    """What is wrong with the files of a folder; empty where nothing is."""
    for name, digest in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _sum(folder / name) != digest:
            return f"{name} is cut short or altered"
    return ""


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
