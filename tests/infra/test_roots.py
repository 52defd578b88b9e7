"""A plan from the API reads below the allowed folders only, whatever its paths look like."""

import pytest

from infra.errors import InputError
from infra.roots import check_below_roots


@pytest.fixture
def places(tmp_path, monkeypatch):
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed / "model", other):
        folder.mkdir(parents=True)
    (allowed / "rows.csv").write_text("text,label\n")
    (other / "secret.csv").write_text("the secret\n")
    monkeypatch.chdir(allowed)
    monkeypatch.setenv("HOME", str(other))
    return allowed, other


@pytest.mark.parametrize("path", ["rows.csv", "./model", "model/../rows.csv", "not-there.csv", "{allowed}/rows.csv"])
def test_inside(places, path):
    check_below_roots({"own_tasks.x.source.path": path.format(allowed=places[0])}, [places[0]])


@pytest.mark.parametrize(
    "path",
    [
        "../other/secret.csv",
        "{other}/secret.csv",
        "/etc/passwd",
        "~/secret.csv",
        "~nobody-of-this-name/x",
        "model/../../other/secret.csv",
        "{allowed}-not/x",
        "link.csv",
        "linked/secret.csv",
        "{allowed}",
        "loop",
        "/",
    ],
)
def test_outside(places, path):
    allowed, other = places
    (allowed / "link.csv").symlink_to(other / "secret.csv")
    (allowed / "linked").symlink_to(other)
    (allowed / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="outside the folders") as raised:
        check_below_roots({"key": path.format(allowed=allowed, other=other)}, [allowed])
    assert "secret" not in str(raised.value).removeprefix("key: ")


@pytest.mark.parametrize(
    "path", ["file:///etc/passwd", "file:/etc/passwd", "s3://bucket/x", "zip://x::file://y", "https://h/x", "a\0b"]
)
def test_no_url(places, path):
    with pytest.raises(InputError, match="no URL"):
        check_below_roots({"key": path}, [places[0], "/"])


def test_a_folder_whose_files_link_elsewhere(places):
    allowed, other = places
    (allowed / "model" / "config.json").symlink_to(other / "secret.csv")
    with pytest.raises(InputError, match="outside"):
        check_below_roots({"backbone": "model"}, [allowed])
    check_below_roots({"backbone": "model"}, [allowed, other])


def test_without_roots_no_path_is_allowed(places):
    check_below_roots({}, [])
    with pytest.raises(InputError, match="DEPT_PLAN_ROOTS"):
        check_below_roots({"backbone": "rows.csv"}, [])
