"""Each room says in its README.md which files it has; that these are there holds `flows/test_readme.py`."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("infra", "tasks", "dept", "registry", "flows")
ROOMS = sorted(file.parent for part in PARTS for file in (ROOT / part).rglob("README.md"))


def files_of(room):
    """The room's Python files, without those of rooms inside it and revisions of the database."""
    inside = [other for other in ROOMS if room in other.parents]
    for file in sorted(room.rglob("*.py")):
        own = not any(other in file.parents for other in inside)
        if own and file.name != "__init__.py" and "versions" not in file.parts:
            yield file


def entries(room):
    """Table rows, items and paragraphs of its README, each in one line."""
    text = (room / "README.md").read_text(encoding="utf-8")
    return [" ".join(part.split()) for part in re.split(r"\n(?=[-|] ?`?|\d\. |\n)", text)]


def told(file, room, lines):
    """Whether the entry of the file's folder names it, as `name.py`, `name` or `folder/{name,other}`."""
    of_folders = [line for line in lines if re.match(r"[-|] `\w+/`", line)]
    own = [line for line in of_folders if line[2:].startswith(f"`{file.relative_to(room).parts[0]}/`")]
    others = [line for line in lines if line not in of_folders]
    return any(re.search(rf"[`,{{/]{file.stem}(\.py)?[`,}}]", line) for line in own or others)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_names_its_files(room):
    lines = entries(room)
    assert [file.name for file in files_of(room) if not told(file, room, lines)] == []


def test_a_file_that_is_not_named_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("known.py", "other.py", "sub/known.py", "sub/other.py"):
        (tmp_path / name).touch()
    text = "# room\n\n- `known.py`: one\n- `sub/`: `other` and\n  more\n\n| `a.py` | x |\n"
    (tmp_path / "README.md").write_text(text)
    lines = entries(tmp_path)
    missed = [file.relative_to(tmp_path).as_posix() for file in files_of(tmp_path) if not told(file, tmp_path, lines)]
    assert missed == ["other.py", "sub/known.py"]
