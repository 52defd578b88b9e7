"""Tasks of `chat: true` from plan to answer: planned, trained, served in the template; refused where there is none."""

import pytest

from dept.backbones.describe import describe
from dept.backbones.shared import shared_backbone
from dept.engine.evaluate import Request, score
from flows.execution.as_trained import as_trained
from flows.execution.settle import settle
from flows.planning.trials import source_specs
from infra.errors import InputError
from registry.serving.predictor import Predictor, load_adapter
from tests.dept.test_chat import CHATML, chat_folder
from tests.flows.conftest import block


@pytest.fixture
def chatty(tmp_path_factory):
    return chat_folder(tmp_path_factory.mktemp("chatty") / "model", CHATML)


def plan_of(tmp_path, chat, **changes):
    tasks = {
        noun: {**block(tmp_path / f"{noun}.csv"), **({"chat": True} if chat else {})}
        for noun in ("food", "service", "film", "plot")
    }
    return {"own_tasks": tasks, "adapter": {"m": 4, "r": 2, "s": 64}, **changes}


def test_from_plan_to_answer(begin, tmp_path, chatty):
    options = {"backbone": str(chatty), "strategies": ["source:food"], "sources": ["food"]}
    context, plan = begin(**plan_of(tmp_path, True, **options))
    (spec,) = source_specs(plan, context.inputs)
    assert spec.chat == context.chat
    assert len(spec.chat) == 64
    other, plan_without = begin(**plan_of(tmp_path, False, **options))
    (plain,) = source_specs(plan_without, other.inputs)
    assert plain.chat is None
    assert plain.data_hash != spec.data_hash  # that it chats is part of the question
    assert spec.model_copy(update={"chat": "0" * 64}).fingerprint != spec.fingerprint  # and how
    (outcome,) = settle(context, "sources", [spec]).outcomes
    adapter = load_adapter(context.store.fetch(outcome.adapter_key))
    assert adapter.metadata["chat"] is True
    predictor = Predictor(adapter, shared_backbone(str(chatty), "float32"))
    text = "the food 7 was good"
    (answer,) = predictor.answers([{"text": text}])
    backbone = predictor.backbone
    (scores,) = score(backbone, [adapter], [Request(f"{text} :", predictor.words, 0)])
    assert answer.label == predictor.labels[scores.index(max(scores))]
    asked = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{text} :"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert predictor.lengths([{"text": text}]) == [len(asked)]
    rows = context.splits["food"].test[:2]
    same, _ = as_trained(context, "food", adapter.metadata, rows)
    assert same.tasks["food"].chat
    today, _ = as_trained(other, "food", adapter.metadata, rows)  # the task has left the chat since
    assert today.tasks["food"].chat
    older, _ = as_trained(context, "food", {k: v for k, v in adapter.metadata.items() if k != "chat"}, rows)
    assert not older.tasks["food"].chat


def test_shots_in_the_prompt_are_turns(begin, tmp_path, chatty):
    from flows.execution.starts import start_of

    context, _ = begin(**plan_of(tmp_path, True, backbone=str(chatty), methods=["in-context"], sources=[]))
    rows = [("film", example) for example in context.splits["film"].train[:2]]
    spec = type("Spec", (), {"start": "shots", "task": "film", "adapter": context.order.adapter, "seed": 0})
    made = start_of(context, spec, rows)
    said = []
    for _, example in rows:
        said += [{"role": "user", "content": example.text}, {"role": "assistant", "content": example.target}]
    whole = context.backbone.tokens.tokenizer.apply_chat_template(said, return_dict=True)["input_ids"]
    assert len(made.prompt) == len(whole) - 2  # but for what ends the last turn, which the next text begins with


def test_without_a_template_it_is_refused_before_any_work(begin, tmp_path, tiny_folders):
    with pytest.raises(InputError, match=r"task \w+: chat: the tokenizer of backbone tiny-llama has no chat template"):
        begin(**plan_of(tmp_path, True))
    assert describe(str(tiny_folders["llama"])).tokens
