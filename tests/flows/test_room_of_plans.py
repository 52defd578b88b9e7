"""What a backbone has no positions for is refused when a plan is opened, before any work."""

import pytest

from flows.execution.open import open_plan
from flows.planning.plan_file import load_plan
from infra.errors import InputError
from tests import families
from tests.flows.conftest import block


@pytest.fixture(scope="module")
def blenderbot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blenderbot")
    families.model_of("blenderbot:s").save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False)])
def test_written_answers_beyond_the_decoders_positions(make_plan, tmp_path, blenderbot, length, fits):
    written = {"kind": "generation", "answer_length": length}
    tasks = {noun: block(tmp_path / f"{noun}.csv") | written for noun in ("film", "plot")}
    for task in tasks.values():
        del task["verbalizer"]
    plan = load_plan(make_plan(backbone=str(blenderbot), own_tasks=tasks, sources=[], strategies=["scratch"]))
    if fits:
        assert open_plan(plan).room == 64
        return
    with pytest.raises(
        InputError, match=r"task film: .*its decoder has 64 positions; an answer takes 65 tokens. Remedy"
    ):
        open_plan(plan)


def test_words_beyond_the_decoders_positions(make_plan, tmp_path, blenderbot):
    task = block(tmp_path / "film.csv") | {"verbalizer": {"no": "bad " * 70 + "film", "yes": "good"}}
    tasks = {"film": task, "plot": block(tmp_path / "plot.csv")}
    with pytest.raises(InputError, match=r"task film: .*decoder has 64 positions; an answer takes 71 tokens"):
        open_plan(load_plan(make_plan(backbone=str(blenderbot), own_tasks=tasks, sources=[], strategies=["scratch"])))


def test_prompts_of_other_methods_than_the_plans_own(make_plan):
    """Prompt tuning of as many numbers has a longer prompt."""
    options = {"adapter": {"m": 4, "r": 2, "s": 240}}
    assert open_plan(load_plan(make_plan(**options))).room == 256
    with pytest.raises(InputError, match=r"task film: backbone tiny-llama has 256 positions; m \+ s = 261"):
        open_plan(load_plan(make_plan(**options, methods=["dept", "prompt-tuning"])))
