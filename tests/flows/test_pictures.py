"""Tasks with pictures from the command line, in plans, through the API and the store."""

import csv
import json
import shutil

import pytest
import yaml

from flows.cli.task_lines import _shown, origin
from flows.execution.open import open_plan
from flows.execution.own_tasks import keep_tasks, known_tasks, stored_rows
from flows.planning.cost import estimate
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan
from flows.planning.roots import check_paths
from infra.errors import InputError
from registry.ledger import Ledger
from registry.store import Store
from tasks.catalogue import get_task
from tasks.load import load_splits
from tasks.picture_reader import read_picture
from tasks.spec import Task
from tests.flows.test_cli import dept, refused
from tests.tasks.picture_cases import animated, bomb, folder_of, png, rotated, task_of

VERBALIZER = {"no": "no", "yes": "yes"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


def new(*arguments):
    result = dept("tasks", "new", *map(str, arguments))
    assert result.exit_code == 0, result.output
    ((name, block),) = yaml.safe_load(result.stdout)["own_tasks"].items()
    return Task.build(name, block, "test"), result.stdout


# --- dept tasks


def test_a_folder_of_pictures_with_a_csv_becomes_a_task(tmp_path):
    folder = folder_of(tmp_path / "shapes")
    out = tmp_path / "blocks" / "mine.yaml"
    out.parent.mkdir()
    said = dept("tasks", "new", str(folder), "--out", str(out))
    assert said.exit_code == 0, said.output
    text = out.read_text()
    assert "60 pictures, named by file" in text
    block = yaml.safe_load(text)["own_tasks"]["shapes"]
    assert block["source"] == {
        **{"kind": "file", "path": str(folder / "rows.csv"), "text": "question"},
        **{"picture": "file", "label": "answer"},
    }
    assert block["template"] == "{text}\nLabel:"
    assert block["verbalizer"] == VERBALIZER
    checked = dept("tasks", "check", str(out))
    assert checked.exit_code == 0, checked.output
    assert "pictures: 60 of 8 x 8 pixels, 3.0 rows each" in checked.stdout
    assert "with pictures" in checked.stdout
    assert f"[picture {folder}" in checked.stdout


def test_pictures_in_a_folder_of_their_own_and_rows_without_text(tmp_path):
    folder = folder_of(tmp_path / "shots", questions=1)
    (folder / "images").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "images" / path.name)
    with (folder / "rows.csv").open("w", newline="") as stream:
        rows = [(f"{number}.png", f"a long caption about picture number {number}") for number in range(60)]
        csv.writer(stream).writerows([("file_name", "caption"), *rows])
    task, _ = new(folder)
    assert (task.kind, task.template, task.metrics) == ("generation", "Caption:", ("cider_d", "bleu4"))
    assert task.source.pictures == folder / "images"
    assert len(load_splits(task).test) == 12
    with (folder / "rows.csv").open("w", newline="") as stream:
        rows = [(f"{number}.png", ("cat", "dog")[number % 2]) for number in range(60)]
        csv.writer(stream).writerows([("photo", "class"), *rows])
    task, _ = new(folder / "rows.csv", "--name", "pets")
    assert (task.name, task.kind, task.template, task.words) == ("pets", "classification", "Label:", ("cat", "dog"))
    assert task.source.picture == "photo"


def test_names_without_an_ending_are_pictures_when_a_user_says_so(tmp_path):
    folder = folder_of(tmp_path / "a", questions=1)
    for path in folder.glob("*.png"):
        path.rename(path.with_suffix(""))
    (folder / "rows.csv").write_text((folder / "rows.csv").read_text().replace(".png", ""))
    task, _ = new(folder, "--picture", "file", "--text", "question")
    assert task.source.picture == "file"
    assert len(load_splits(task).train) > 30
    refused(dept("tasks", "new", str(folder), "--picture", "photo"), "no column 'photo'")


def test_every_picture_is_read_and_bad_ones_are_named(tmp_path):
    folder = folder_of(tmp_path / "a", questions=2)
    (folder / "0.png").write_bytes(rotated())
    (folder / "1.png").write_bytes(animated("GIF"))
    new(folder)
    for number in range(10, 22):
        (folder / f"{number}.png").write_bytes(b"none of these %d" % number)
    (folder / "30.png").write_bytes(bomb())
    (folder / "31.png").unlink()
    result = dept("tasks", "new", str(folder))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 12
    assert all(str(folder) in line for line in lines[:10])
    assert "31.png: no such file" in lines[0]
    assert "not a picture that can be read" in lines[1]
    assert lines[10] == "… and 4 more"
    assert lines[11].startswith("Error: tasks new: 14 of 60 pictures cannot be used. Remedy: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: (a / "rows.csv").unlink(), "no table in this folder. Remedy: a csv beside the pictures"),
        (lambda a: shutil.copy(a / "rows.csv", a / "more.csv"), "several tables ('more.csv', 'rows.csv')"),
    ],
)
def test_folders_that_are_not_understood(tmp_path, change, said):
    folder = folder_of(tmp_path / "a")
    change(folder)
    refused(dept("tasks", "new", str(folder)), said)


def test_lists_say_which_tasks_have_pictures(tmp_path):
    folder = folder_of(tmp_path / "a", questions=1)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"mine": task_of(folder).block()}))
    assert dept("tasks", "add", str(tmp_path / "own.yaml")).exit_code == 0
    found = {name: json.loads(dept("tasks", name, "--json").stdout) for name in ("mine", "vqav2", "movie-polarity")}
    assert [one["pictures"] for one in found.values()] == ["shown", "shown", None]
    assert found["mine"]["rows_from"] == f"file {folder / 'rows.csv'}, with pictures"
    assert found["vqav2"]["rows_from"] == "hub lmms-lab/VQAv2, with pictures"
    blind = get_task("easy-vqa-open-question-only")
    assert _shown(blind) == get_task("easy-vqa-open"), "their rows are read once"
    assert _shown(blind.model_copy(update={"template": "{text}"})).name == blind.name
    assert origin(blind) == "package easy_vqa, pictures hidden"
    assert "[picture " in dept("tasks", "mine").stdout


# --- plans


def plan_of(folder, backbone, **changes):
    block = {**task_of(folder).block(), **changes.pop("task", {})}
    body = {"name": "seen", "backbone": str(backbone), "own_tasks": {"mine": block}, "targets": ["mine"]}
    return Plan.model_validate(body | {"strategies": ["scratch"], "methods": ["dept"], "shots": [4]} | changes)


def test_a_backbone_that_reads_no_pictures_is_refused_before_any_work(tmp_path, tiny_folders, monkeypatch):
    folder, backbone = folder_of(tmp_path / "a"), tiny_folders["llama"]
    said = r"^task mine: its rows have pictures, which backbone .* does not read\. Remedy: adapter: {pictures: .*hidden"
    plan = plan_of(folder, backbone)
    monkeypatch.setattr("flows.planning.check.load_splits", lambda task: pytest.fail("its rows may be gigabytes"))
    monkeypatch.setattr("flows.planning.cost.load_splits", lambda task: pytest.fail("its rows may be gigabytes"))
    for refuse in (open_plan, estimate):
        with pytest.raises(InputError, match=said):
            refuse(plan)
    with pytest.raises(InputError, match=said.replace("mine", "vqav2")):
        open_plan(plan_of(folder, backbone, targets=["mine"], sources=["vqav2"], strategies=["best-source"]))
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan.model_dump(mode="json", exclude_defaults=True)))
    assert load_plan(path).own_tasks == plan.own_tasks
    for more in ((), ("--dry-run",)):
        refused(dept("run", str(path), *more), "its rows have pictures, which backbone", "Remedy")


def test_the_text_alone_is_read_where_the_picture_is_hidden(tmp_path, tiny_folders):
    context = open_plan(plan_of(folder_of(tmp_path / "a"), tiny_folders["llama"], task={"picture": "hidden"}))
    rows = context.splits["mine"].test
    assert {row.text for row in rows} == {f"Question: is it kind {ask}?\nAnswer:" for ask in range(3)}
    assert len({row.content for row in rows}) == len(rows)


def test_rows_and_pictures_go_to_the_store_and_come_back_elsewhere(tmp_path):
    folder = folder_of(tmp_path / "a", questions=2)
    task, ledger, store = task_of(folder), Ledger.open(), Store.open()
    before = load_splits(task)
    kept = keep_tasks([task], ledger, store)
    shutil.rmtree(folder)
    back = stored_rows(store)(known_tasks(ledger)["mine"], kept["mine"])
    assert back.parts() == before.parts()
    assert back.data_hash == before.data_hash
    assert {read_picture(row.picture).getpixel((0, 0))[0] for row in back.train} <= set(range(60))
    assert len(store.names("pictures")) == 1


# --- through the API


def test_pictures_are_below_the_allowed_folders_as_other_files_are(tmp_path, monkeypatch):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    folder = folder_of(allowed / "a", questions=1)
    monkeypatch.setenv("DEPT_PLAN_ROOTS", str(allowed))
    plan = plan_of(folder, "smollm2-135m")
    check_paths(plan)
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=r"own_tasks\.mine\.source\.pictures.*outside the folders"):
        check_paths(plan)
    (folder / "link.png").unlink()
    (folder / "link.png").symlink_to(folder / "3.png")
    check_paths(plan)
    elsewhere = plan_of(
        folder, "smollm2-135m", task={"source": plan.own_tasks[0].source.model_dump() | {"pictures": "/"}}
    )
    with pytest.raises(InputError, match=r"own_tasks\.mine\.source\.pictures: outside the folders"):
        check_paths(elsewhere)
