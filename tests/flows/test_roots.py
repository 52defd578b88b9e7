"""Every path of a plan is known, so that one from the API can be checked."""

from pathlib import Path

import pytest

from flows.planning.plan import Plan
from flows.planning.retraining import Retraining
from flows.planning.roots import check_paths, paths_of
from infra.errors import InputError

TASK = {"verbalizer": {"no": "negative", "yes": "positive"}, "template": "{text} :"}
PACKAGE = {"kind": "package", "package": "yaml", "requirement": "pyyaml", "reader": "tsv"}


def plan(source=None, **changes):
    own = {"mine": TASK | {"source": source or {"kind": "file", "path": "rows.csv"}}}
    body = {"name": "x", "targets": ["mine"], "strategies": ["scratch"], "own_tasks": own}
    return Plan.model_validate(body | changes)


@pytest.fixture
def allowed(tmp_path, monkeypatch):
    folder = tmp_path / "allowed"
    (folder / "sets" / "mine").mkdir(parents=True)
    monkeypatch.setenv("DEPT_PLAN_ROOTS", str(folder))
    monkeypatch.chdir(folder)
    return folder


def test_a_plan_of_names_has_no_paths():
    assert paths_of(Plan(name="x", sources=["amazon-polarity"], targets=["movie-polarity"])) == {}
    assert paths_of(Retraining()) == {}
    hub = {"kind": "hub", "repo": "owner/name", "validation": "validation"}
    assert paths_of(plan(hub, backbone="HuggingFaceTB/SmolLM2-135M")) == {}


def test_paths_are_found_and_those_inside_are_allowed(allowed):
    order = plan({"kind": "file", "path": "rows.csv"}, backbone="./model")
    assert paths_of(order) == {"backbone": "./model", "own_tasks.mine.source.path": Path("rows.csv")}
    check_paths(order)
    check_paths(plan({"kind": "hub", "repo": "sets/mine"}))  # a folder of that name is there, so it is a path


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.csv", "~/x.csv", "file:///etc/passwd", "s3://bucket/x.csv"])
def test_paths_outside_are_refused(allowed, path):
    for order in (
        plan({"kind": "file", "path": path, "format": "csv"}),
        plan(backbone=path),
        plan({"kind": "hub", "repo": path}),
        Retraining(backbone=path),
        Retraining(own_tasks=plan({"kind": "file", "path": path, "format": "csv"}).own_tasks),
    ):
        with pytest.raises(InputError, match=r"^(backbone|own_tasks\.mine\.source\.(path|repo)): "):
            check_paths(order)


def test_picture_encoders_are_paths_as_well(allowed):
    mine = {"pictures": {"encoder": "/etc/clip"}}
    for changes in ({"adapter": mine}, {"groups": [{"targets": ["mine"], "adapter": mine}]}):
        with pytest.raises(InputError, match=r"^(groups\.0\.)?adapter\.pictures\.encoder: "):
            check_paths(plan(**changes))
    named = plan(adapter={"pictures": {"encoder": "openai/clip-vit-base-patch32"}})
    assert list(paths_of(named)) == ["own_tasks.mine.source.path"]
    check_paths(plan(adapter={"pictures": {"encoder": "./clip"}}))


def test_without_the_setting_no_path_is_allowed(allowed, monkeypatch):
    monkeypatch.delenv("DEPT_PLAN_ROOTS")
    with pytest.raises(InputError, match="DEPT_PLAN_ROOTS"):
        check_paths(plan())


@pytest.mark.parametrize("path", ["../../../../../../etc/passwd", "/etc/passwd", "../yaml/../../x"])
def test_a_package_source_stays_in_its_package(allowed, path):
    with pytest.raises(InputError, match="leads out of the package yaml"):
        check_paths(plan(PACKAGE | {"path": path}))
    check_paths(plan(PACKAGE | {"path": "data/x.tsv"}))
