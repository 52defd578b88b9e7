"""Plans with pictures on a backbone that reads none: the adapters' own map sees them, from plan to report."""

import base64
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dept.adapters import picture_map
from dept.adapters.initialise import from_text
from dept.readout import mean_answers
from dept.trial import PICTURES
from flows import transfer
from flows.execution.engines import InProcess
from flows.execution.measure import answered
from flows.execution.open import open_plan
from flows.execution.rows import of_task, rows_of
from flows.execution.settle import settle, work_here
from flows.planning.cost import estimate
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan
from flows.planning.search_plan import SearchPlan
from flows.planning.trials import source_specs, target_specs
from flows.reporting.protocol import protocol
from infra.errors import InputError
from registry.ledger import Ledger
from registry.promotion.names import all_tasks_name
from registry.serving import Predictor, load_adapter, load_champion
from tests.dept.test_picture_encoder import encoder_at
from tests.flows.test_cli import dept, refused
from tests.tasks.picture_cases import folder_of, saved, task_of

SIGHT = {"grid": 2, "pixels": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(picture_map, "_kept", {})


def colours(folder, first=0):
    """Pictures whose lightness is the answer to each question about them."""
    folder_of(folder, questions=1, first=first)
    lines = []
    for number in range(first, first + 60):
        shade = (40, 215)[number % 2] + number % 20
        (folder / f"{number}.png").write_bytes(saved(Image.new("RGB", (8, 8), (shade, shade, number))))
        lines.append(f"{number}.png,is it light?,{('no', 'yes')[number % 2]}")
    (folder / "rows.csv").write_text("\n".join(["file,question,answer", *lines]) + "\n")
    return task_of(folder).block()


def plan_of(tmp_path, backbone, **changes):
    tasks = {name: colours(tmp_path / name, first) for name, first in (("mine", 0), ("other", 60))}
    tasks["hidden"] = tasks["mine"] | {"picture": "hidden"}
    body = {
        **{"name": "seen", "backbone": str(backbone), "own_tasks": tasks, "sources": ["other"], "seeds": [0]},
        **{"targets": ["mine", "hidden"], "strategies": ["scratch", "best-source"], "methods": ["dept"], "beside": []},
        **{"shots": [8], "test_rows": 12, "adapter": {"m": 4, "r": 2, "s": 24, "pictures": SIGHT}, "probe_steps": 1},
        "source_training": {"steps": 40, "batch_size": 8, "eval_every": 10, "lr_prompt": 0.03, "lr_pictures": 0.05},
        "scratch_training": {"steps": 4, "batch_size": 4, "eval_every": 2},
        "transfer_training": {"steps": 4, "batch_size": 4, "eval_every": 2, "lr_pictures": 0.001},
        "source_validation_rows": 8,
    }
    return Plan.model_validate(body | changes)


def body_of(plan):
    return {"sources": [], **plan.model_dump(mode="json", exclude_defaults=True)}


def written(path, plan):
    path.write_text(yaml.safe_dump(body_of(plan)))
    return str(path)


# --- planning


def test_only_what_sees_pictures_has_a_map(tmp_path, tiny_folders):
    plan = plan_of(tmp_path, tiny_folders["llama"], methods=["dept", "prompt-tuning", "lora", "probe"])
    inputs = open_plan(plan).inputs
    (source,) = source_specs(plan, inputs)
    assert source.adapter.pictures == plan.adapter.pictures
    scratch = plan.model_copy(update={"strategies": ["scratch"]})
    found = {(s.task, s.variant): s.adapter.pictures is not None for s in target_specs(scratch, inputs, {})}
    assert found == {
        **{("mine", variant): variant in ("scratch", "prompt-tuning") for _, variant in found},
        **{("hidden", variant): False for _, variant in found},
    }
    blind = scratch.model_copy(update={"adapter": plan.adapter.blind, "targets": ["hidden"]})
    text = {s.fingerprint for s in target_specs(blind, inputs, {})}
    assert {s.fingerprint for s in target_specs(scratch, inputs, {}) if s.task == "hidden"} == text


def test_a_picture_counts_in_cost_and_positions(tmp_path, tiny_folders):
    plan = plan_of(tmp_path, tiny_folders["llama"], strategies=["scratch"], sources=[])

    def tokens(plan):
        (line,) = [line for line in estimate(plan).lines if line.variant == "scratch"]
        return line.trained

    larger = plan.adapter.model_copy(update={"pictures": plan.adapter.pictures.model_copy(update={"grid": 3})})
    assert tokens(plan.model_copy(update={"adapter": larger})) - tokens(plan) == 4 * 4 * (9 - 4)
    numbers = {n for line in estimate(plan).lines if line.variant == "scratch" for n in line.numbers}
    assert numbers == {plan.adapter.trainable(32), plan.adapter.blind.trainable(32)}
    wide = plan.adapter.model_copy(update={"pictures": plan.adapter.pictures.model_copy(update={"grid": 16})})
    with pytest.raises(InputError, match=r"task mine: backbone tiny-llama has 256 positions; m \+ s = 284"):
        open_plan(plan.model_copy(update={"adapter": wide}))
    refused(
        dept(
            "run",
            written(tmp_path / "p.yaml", plan_of(tmp_path, tiny_folders["llama"])),
            "--set",
            "strategies=[mixture]",
        ),
        "strategies: mixture mixes no maps of pictures",
    )


# --- from plan to report


def test_from_plan_to_ledger_and_report(tmp_path, tiny_folders):
    path = written(tmp_path / "p.yaml", plan_of(tmp_path, tiny_folders["llama"], methods=["dept", "probe"]))
    result = dept("run", path)
    assert result.exit_code == 0, result.output
    assert {row.task: row.decision for row in Ledger.open().decisions()} == dict.fromkeys(
        ("hidden", "mine", "other"), "first"
    )
    done = {o.spec.label: o for o in Ledger.open().outcomes(r.fingerprint for r in Ledger.open().find()).values()}
    seen, blind = done["mine/k8/s0/best-source:other"], done["hidden/k8/s0/best-source:other"]
    assert seen.spec.adapter.pictures
    assert blind.spec.adapter.pictures is None
    assert (seen.trainable, blind.trainable) == (seen.spec.adapter.trainable(32), blind.spec.adapter.trainable(32))
    assert done["other/all/s0/scratch"].validation["accuracy"] == 100, "lightness is all there is to see"
    assert seen.test["accuracy"] > 90 > blind.test["accuracy"]
    said = " ".join(protocol(list(done.values())))
    assert "Pictures of mine were seen by best-source, scratch alone: probe, untrained read the texts" in said


def test_an_encoder_decoder_sees_them_as_well(tmp_path, tiny_folders, begin):
    context, plan = begin(**body_of(plan_of(tmp_path, tiny_folders["t5"])))
    (outcome,) = settle(context, "sources", source_specs(plan, context.inputs)).outcomes
    assert outcome.validation["accuracy"] == 100


def test_states_of_a_frozen_encoder_before_a_frozen_text_to_text_model(tmp_path, tiny_folders, begin):
    """The paper's way (CLIP-T5), from plan to report; the encoder's files are looked up before any work."""
    name = encoder_at(tmp_path / "clip", side=32)
    plan = plan_of(tmp_path, tiny_folders["t5"], seeds=[0, 1])
    body = body_of(plan) | {"adapter": {"m": 4, "r": 2, "s": 24, "pictures": {"grid": 2, "encoder": name}}}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(body))
    numbers = {n for line in estimate(load_plan(str(path))).lines if line.variant == "scratch" for n in line.numbers}
    assert numbers == {(blind := plan.adapter.blind.trainable(32)) + 32 * 32 + 4 * 32, blind}
    context, plan = begin(**body)
    done = {outcome.spec.label: outcome for outcome in transfer.stages(context, plan, work_here).outcomes}
    source, seen = done["other/all/s0/scratch"], done["mine/k8/s0/best-source:other"]
    assert source.validation["accuracy"] == 100
    assert seen.test["accuracy"] > 90 > done["hidden/k8/s0/best-source:other"].test["accuracy"]
    assert seen.spec.adapter.pictures.encoder_id
    assert seen.trainable == blind + 32 * 32 + 4 * 32
    assert f"Pictures were read by the frozen encoder {name} (" in " ".join(protocol(list(done.values())))
    (Path(name) / "preprocessor_config.json").unlink()
    for refuses in (open_plan, estimate):
        with pytest.raises(InputError, match=r"no preprocessor_config\.json beside it"):
            refuses(plan)
    refused(dept("run", str(path), "--set", "adapter.pictures.pixels=4"), "an encoder has its own size of pictures")


def test_a_picture_that_is_gone_fails_its_trials_in_one_line(tmp_path, tiny_folders, begin):
    plan = plan_of(tmp_path, tiny_folders["llama"], strategies=["scratch"], sources=[])
    context, plan = begin(**body_of(plan))
    specs = target_specs(plan, context.inputs, {})
    trained = next(s for s in specs if s.label == "mine/k8/s0/scratch")
    picture = Path(context.splits["mine"].test[0].picture.path)
    kept = picture.read_bytes()
    picture.write_bytes(kept + b"more")
    found = settle(context, "targets", [s for s in specs if s.variant == "scratch"])
    assert [o.spec.task for o in found.outcomes] == ["hidden"]
    row = context.ledger.get(trained.fingerprint)
    assert row.status == "failed"
    assert "the picture has changed since its row was read. Remedy: " in row.error
    assert "\n" not in row.error
    with pytest.raises(InputError, match="has changed"):
        rows_of(context, of_task("mine", context.splits["mine"].test), plan.adapter)


def test_a_picture_that_goes_in_mid_training_fails_its_trials_alone(tmp_path, tiny_folders, begin, monkeypatch):
    plan = plan_of(tmp_path, tiny_folders["llama"], strategies=["scratch"], sources=[])
    context, plan = begin(**body_of(plan))
    specs = [s for s in target_specs(plan, context.inputs, {}) if s.label.endswith("/k8/s0/scratch")]
    own = InProcess.train

    def train(self, trials, *args, **kwargs):
        if len(trials) == 2:
            Path(next(row.seen.picture.path for trial in trials for row in trial.rows if row.seen)).unlink()
            monkeypatch.setattr(picture_map, "_kept", {})
        return own(self, trials, *args, **kwargs)

    monkeypatch.setattr(InProcess, "train", train)
    found = settle(context, "targets", specs)
    assert [(o.spec.task, o.steps_done) for o in found.outcomes] == [("hidden", 4)]
    (row,) = (row for row in context.ledger.find() if row.status == "failed")
    assert row.task == "mine"
    assert "but a row needs this picture. Remedy: put it back" in row.error
    assert not context.begun


@pytest.mark.parametrize("sight", ["patches", "encoder"])
def test_a_champion_of_pictures_is_served(tmp_path, tiny_folders, begin, monkeypatch, sight):
    """By Python, by the command line, by its own model and by that of its backbone: each as it was tested."""
    changes = {}
    if sight == "encoder":
        seen = {"grid": 2, "encoder": encoder_at(tmp_path / "clip", side=32)}
        changes = {"adapter": {"m": 4, "r": 2, "s": 24, "pictures": seen}}
    plan = plan_of(tmp_path, tiny_folders["llama"], strategies=["scratch"], sources=[], **changes)
    context, plan = begin(**body_of(plan))
    done = settle(context, "targets", target_specs(plan, context.inputs, {})).outcomes
    assert {row["task"]: row["decision"].split(":")[0] for row in transfer.register(context, done, work_here)} == {
        "mine": "first",
        "hidden": "first",
    }
    champion = load_champion("mine", str(tiny_folders["llama"]))
    assert champion.adapter.sees.grid == 2
    rows = context.splits["mine"].test
    _, (scores,) = answered(context, [champion.adapter], "mine", rows)
    wanted = np.exp(mean_answers([scores, scores]))  # of sum 1
    paths = [Path(row.picture.path) for row in rows]
    table = pd.DataFrame({"question": ["is it light?"] * len(rows), "picture": [str(path) for path in paths]})
    np.testing.assert_allclose(champion.predict(table)[["no", "yes"]], wanted, atol=1e-5)

    table["picture"] = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", context.tracker.uri)
    own = mlflow.pyfunc.load_model(f"models:/{champion.name}@champion")
    assert own.metadata.signature.inputs.input_names() == ["question", "picture"]
    np.testing.assert_allclose(own.predict(table)[["no", "yes"]], wanted, atol=1e-5)
    assert own.predict(own.input_example)["label"][0] in ("no", "yes")
    name = all_tasks_name(str(tiny_folders["llama"]), context.backbone_id)
    everyone = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert everyone.metadata.signature.inputs.input_names()[:2] == ["task", "text"]
    mixed = pd.concat([table.assign(task="mine"), table.assign(task="hidden", picture=None)], ignore_index=True)
    mixed.loc[len(mixed)] = {"task": "mine", "question": "is it light?", "picture": str(paths[0])}
    said = everyone.predict(mixed)
    found = [[line["no"], line["yes"]] for line in said["probabilities"][:-1]]
    blind = load_champion("hidden", str(tiny_folders["llama"])).predict({"question": list(table["question"])})
    np.testing.assert_allclose(found, np.concatenate([wanted, blind[["no", "yes"]]]), atol=1e-5)
    assert "no file is opened for a request" in said["error"].iloc[-1]

    lines = [f"is it light?\t{path}" for path in paths]
    csv = tmp_path / "asked.csv"
    csv.write_text("\n".join(["question,file", *(f"is it light?,{path.name}" for path in paths)]))
    given = ["--file", str(csv), "--column", "picture=file", "--picture", str(paths[0].parent)]
    for words in (given, lines, ["is it light?", *(f"--picture={path}" for path in paths)]):
        if words[0] == "is it light?":
            words = [*["is it light?"] * (len(paths) - 1), *words]
        result = dept("predict", "--task", "mine", "--all", *words)
        assert result.exit_code == 0, result.output
        cells = [line.split("\t") for line in result.stdout.splitlines()]
        assert cells[0] == ["answer", "probability", "no", "yes", "question", "picture"]
        assert [line[-1] for line in cells[1:]] == [str(path) for path in paths]
        np.testing.assert_allclose([[float(n) for n in line[2:4]] for line in cells[1:]], wanted, atol=6e-4)


# --- backbones that read pictures


def test_a_backbones_own_block_counts_and_a_blind_one_is_no_reader(tmp_path, begin, monkeypatch):
    from tests.seeing import save_seeing

    folder = save_seeing(tmp_path / "llava", "llava")
    plan = plan_of(tmp_path, folder, strategies=["scratch"], sources=[], targets=["mine"])
    plan = plan.model_copy(update={"adapter": plan.adapter.blind})

    def mean(plan):
        return next(line.trained for line in estimate(plan).lines if line.variant == "scratch") / 16

    (task,) = plan.own_tasks[:1]
    hidden = plan.model_copy(update={"own_tasks": [task.model_copy(update={"picture": "hidden"})]})
    assert mean(plan) - mean(hidden) == 4
    with pytest.raises(InputError, match=r"does not read in ranks \(engine: deepspeed\)\. Remedy: adapter: {pictures"):
        open_plan(plan.model_copy(update={"engine": "deepspeed"}))
    context, plan = begin(**body_of(plan))
    examples = of_task("mine", context.splits["mine"].test[:2])
    first, second = rows_of(context, examples, plan.adapter)
    assert first.seen.picture == examples[0][1].picture
    swapped = [
        ("mine", replace(one, picture=other.picture))
        for (_, one), (_, other) in zip(examples, examples[::-1], strict=True)
    ]
    start = from_text(context.backbone, plan.adapter, "look", 0)
    seen, other = (
        context.backbone.score([start], [(0, row) for row in rows])
        for rows in ([first, second], rows_of(context, swapped, plan.adapter))
    )
    assert seen != other
    monkeypatch.setattr(type(context.backbone.backbone), "positions", plan.adapter.m + len(first.source) - 1)
    with pytest.raises(InputError, match=r"positions; m \+ s = "):
        rows_of(context, examples, plan.adapter)
    context.backbone.backbone.reads_pictures = False
    with pytest.raises(InputError, match=r"its files promise that it reads pictures, but here it reads none"):
        rows_of(context, examples, plan.adapter)


def test_a_plan_on_a_backbone_that_reads_pictures(tmp_path, begin):
    """By its own eyes, and with a map and a search beside them."""
    from tests.seeing import save_seeing

    folder = save_seeing(tmp_path / "llava", "llava")
    plan = plan_of(tmp_path, folder, strategies=["scratch"], sources=[], targets=["mine"], register=False)
    search = {"candidates": 2, "steps": 2, "rungs": [], "eval_every": 2, "folds": 1, "together": 2}
    own = plan.model_copy(update={"adapter": plan.adapter.blind, "methods": ["dept", "probe", "lora"]})
    auto = plan.model_copy(update={"methods": ["auto"], "search": SearchPlan(**search)})
    for one in (own, auto):
        context, planned = begin(**body_of(one))
        done = transfer.stages(context, planned, work_here)
        assert not done.failed
        assert done.outcomes
        assert not [said for said in protocol(list(done.outcomes)) if "ictures" in said]
        trained = [o for o in done.outcomes if o.spec.kind == "train" and o.spec.training.steps]
        assert all(o.extra[PICTURES] for o in trained)
    chosen = next(o for o in done.outcomes if o.spec.variant == "scratch")
    adapter = load_adapter(context.store.fetch(chosen.adapter_key))
    rows = context.splits["mine"].test
    _, (scores,) = answered(context, [adapter], "mine", rows)
    wanted = np.exp(mean_answers([scores, scores]))  # of sum 1
    table = pd.DataFrame({"question": "is it light?", "picture": [row.picture.path for row in rows]})
    np.testing.assert_allclose(Predictor(adapter).predict(table)[["no", "yes"]], wanted, atol=1e-5)
    wrong = {"methods": (["in-context"], "shots in the prompt"), "calibration": ("contextual", "nothing stands")}
    for key, (value, said) in wrong.items():
        with pytest.raises(InputError, match=f"{key}: .*: {said}"):
            open_plan(own.model_copy(update={key: value}))
