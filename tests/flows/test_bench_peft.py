"""The door to PEFT's method comparison, on a tiny model and made-up arithmetic: rows, answers, order, JSON."""

import json
import random

import pytest
import torch
import yaml

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones.backbone import Backbone
from dept.config import AdapterConfig
from flows.studies.peft_comparison import bench as module
from flows.studies.peft_comparison.answers import accuracy, said, value
from flows.studies.peft_comparison.bench import training_rows
from flows.studies.peft_comparison.forgetting import wiki_loss
from flows.studies.peft_comparison.protocol import TEMPLATE, Settings, load_settings
from flows.studies.peft_comparison.rows import Question, in_buckets, read_rows
from infra.errors import InputError
from tests.flows.test_cli import dept, refused

# The layout, as https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA/results has it.
TOP = {"run_info", "train_info", "meta_info"}
RUN = {"created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config", "error_msg"}
TRAIN_CONFIG = [
    "model_id",
    "dtype",
    "max_seq_length",
    "batch_size",
    "batch_size_eval",
    "max_steps",
    "eval_steps",
    "compile",
    "use_gc",
    "query_template",
    "seed",
    "grad_norm_clip",
    "optimizer_type",
    "optimizer_kwargs",
    "lr_scheduler",
    "use_amp",
    "autocast_adapter_dtype",
    "generation_kwargs",
    "attn_implementation",
    "init_kv_cache_prefix",
]
MEMORY = {f"accelerator_memory_{name}" for name in ("reserved_avg", "max", "reserved_99th")}
TRAIN = MEMORY | {"train_time", "file_size", "num_trainable_params", "num_total_params", "status", "metrics"}
STEP = {"step", "valid accuracy", "train loss", "train samples", "train time", "eval time", "tokens / sec"}
STEP |= {"mem allocated avg", "mem reserved avg", "elapsed time"}
LAST = {"step", "test accuracy", "train loss", "train samples", "train total tokens", "forgetting"}
META = {"model_info", "dataset_info", "package_info", "system_info", "pytorch_info"}
SYSTEM = {"system", "release", "version", "machine", "processor", "accelerator"}


def sums(n, seed):
    draw = random.Random(seed)
    return [(draw.randint(1, 50), draw.randint(1, 50)) for _ in range(n)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Rows in the columns of the hub."""
    root = tmp_path / "rows"

    def write(name, split, rows):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    long = {"query": "What is 1 plus 1?", "response": "x" * 2000 + " The answer is: 2"}
    learned = [
        {"query": f"What is {a} plus {b}?", "response": f"{a} + {b}. The answer is: {a + b}"} for a, b in sums(20, 0)
    ]
    write("metamath", "train", [long, *learned])
    for split, n in (("train", 9), ("test", 5)):
        rows = [{"question": f"Add {a} and {b}.", "answer": f"So {a} + {b}\n#### {a + b}"} for a, b in sums(n, n)]
        write("gsm8k", split, rows)
    write("finewiki", "train", [{"text": f"the film was good {'and slow ' * n}"} for n in range(4)])
    monkeypatch.setenv("DEPT_DATA", str(root))
    return root


def settings(tiny_folders, **changes):
    training = {"steps": 4, "batch_size": 4, "eval_every": 2, "lr_prompt": 0.01, "lr_low_rank": 0.001, "warmup": 0.25}
    body = {
        "name": "tiny",
        "backbone": str(tiny_folders["llama"]),
        "dtype": "float32",
        "adapter": {"m": 4, "r": 2, "s": 96},
        "training": training,
        "max_new_tokens": 8,
        "validation_rows": 3,
        "batch_size_eval": 2,
        "wiki_rows": 3,
    }
    return body | changes


def test_the_whole_door(data, tiny_folders, tmp_path):
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(settings(tiny_folders)))
    done = dept("bench-peft", str(file), "--results", str(out), "--device", "cpu")
    assert done.exit_code == 0, done.output
    body = json.loads((out / "dept--tiny.json").read_text())
    run, train, meta = body["run_info"], body["train_info"], body["meta_info"]
    assert body.keys() == TOP
    assert (run.keys(), train.keys(), meta.keys()) == (RUN, TRAIN, META)
    assert list(run["train_config"]) == TRAIN_CONFIG
    assert meta["system_info"].keys() == SYSTEM
    assert meta["dataset_info"].keys() == {"metamath", "gsm8k"}
    assert meta["model_info"].keys() == {"sha", "created_at"}
    names = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
    assert list(meta["package_info"]) == [f"{n}-{what}" for n in names for what in ("version", "commit-hash")]
    *steps, last = train["metrics"]
    assert [step.keys() for step in steps] == [STEP, STEP]
    assert last.keys() == LAST
    assert [entry["step"] for entry in train["metrics"]] == [2, 4, 4]
    assert (last["train samples"], run["experiment_name"], train["status"]) == (16, "dept/tiny", "success")
    assert 0 <= last["test accuracy"] <= 1
    assert 0 < abs(last["forgetting"]) < 10
    assert train["num_trainable_params"] == 4 * 32 + (96 + 32) * 2
    assert train["accelerator_memory_max"] >= train["accelerator_memory_reserved_99th"]
    assert run["total_time"] > train["train_time"] > 0
    loaded = Adapter.load(out / "dept--tiny")
    assert loaded.b.abs().sum() > 0
    assert (out / "dept--tiny" / "adapter.safetensors").stat().st_size == train["file_size"]
    assert "Test accuracy" in done.stdout


def test_rows_are_learned_in_the_benchmarks_order(data, tiny_folders, monkeypatch):
    chosen = Settings.model_validate(settings(tiny_folders))
    rows = read_rows(chosen)
    assert rows.train[0].text == TEMPLATE.format(query="What is 25 plus 49?")
    assert (len(rows.train), len(rows.validation), len(rows.test), len(rows.wiki)) == (16, 3, 5, 3)
    backbone = Backbone.from_pretrained(chosen.backbone, "float32", "cpu")
    made = training_rows(backbone, rows.train, 96)
    seen = []
    accumulate = module.Loop._backward

    def watched(self, items, *more):
        seen.append([row.source + row.candidates[0] for _, row in items])
        return accumulate(self, items, *more)

    monkeypatch.setattr(module.Loop, "_backward", watched)
    run = module._Run(chosen, backbone, rows, module.Meter(torch.device("cpu")), lambda text: None)
    run.train(from_text(backbone, chosen.adapter, "x", 0))
    longest_first = sorted(made, key=lambda row: -row.length)  # 16 rows are within one bucket of 20 batches
    assert [ids for step in seen for ids in step] == [row.source + row.candidates[0] for row in longest_first]
    assert run.tokens == [sum(len(ids) for ids in step) for step in seen]
    assert in_buckets([1, 3, 2] * 20, 1)[:20] == sorted(range(20), key=lambda i: -([1, 3, 2] * 20)[i])
    assert sorted(in_buckets([1, 3, 2] * 20, 1)[20:40]) == list(range(20, 40))


def test_a_row_is_question_and_answer_as_one_text(tiny_llama):
    question = Question("Question: 1 + 1\nAnswer:", "2. The answer is: 2")
    (row,) = training_rows(tiny_llama, [question], 96)
    ids = tiny_llama.tokens.encode_texts([question.text + question.response])[0]
    assert [*row.source, *row.candidates[0]] == [*ids, tiny_llama.tokens.end_id]
    assert (len(row.source), row.cut) == (1, False)
    (row,) = training_rows(tiny_llama, [question], 10)
    assert ([*row.source, *row.candidates[0]], row.cut) == (ids[:10], True)


@torch.inference_mode()
def test_forgetting_is_measured_as_theirs(tiny_llama):
    """Each position's logits against the token at that position, by the backbone's own forward pass."""
    adapter = from_text(tiny_llama, AdapterConfig(m=4, r=2, s=24), "good bad", seed=0)
    adapter.b.data.normal_(generator=torch.Generator().manual_seed(0))
    texts = ["the film was good", "slow service of the food and very bad acting", "a"]
    losses = []
    for ids in tiny_llama.tokens.encode_texts(texts):
        kept = torch.tensor([ids[:9]])
        logits = tiny_llama(adapter, kept).logits[0, 4:].float()
        losses += torch.nn.functional.cross_entropy(logits, kept[0], reduction="none").tolist()
    for budget in (8, 1000):
        assert wiki_loss(tiny_llama, adapter, texts, 9, budget) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Question: x\nAnswer: 2 + 2 = 4. The answer is: 4.", 4.0),
        ("The answer is: 3\nQuestion: y\nAnswer: The answer is: 20/35", 20 / 35),
        ("So 50% of it.\n#### $50%", 50.0),
        ("The final answer is 7!\n\nNext", 7.0),
        ("#### 1,000", "1,000"),
        ("The answer is: x + 1", "x + 1"),
        ("The answer is: 1/2/3", "1/2/3"),
        ("The answer is: 1/0", "1/0"),
        ("it is 4", None),
    ],
)
def test_answers_are_read_as_theirs(text, answer):
    found = said(text)
    assert (None if found is None else value(found)) == answer


def test_accuracy():
    assert (
        accuracy(
            ["The answer is: 4.0", "#### 5", "four", "The answer is: 0.5"], ["#### 4", "#### 4", "#### 4", "#### 1/2"]
        )
        == 0.5
    )
    with pytest.raises(InputError, match="names no answer"):
        accuracy(["The answer is: 4"], ["four"])


def test_shipped_settings_are_the_protocol():
    chosen = load_settings("llama-3.2-3b")
    assert chosen.adapter.trainable(3072) == 614_400
    told = chosen.train_config()
    assert (told["max_steps"], told["batch_size"], told["eval_steps"], told["seed"]) == (5000, 4, 250, 0)
    assert (told["dtype"], told["lr_scheduler"], told["grad_norm_clip"]) == ("bfloat16", "cosine", 1.0)
    assert (told["max_seq_length"], told["batch_size_eval"], chosen.training.warmup) == (768, 50, 0.1)
    assert chosen.adapter.s >= chosen.wiki_tokens


@pytest.mark.parametrize(
    ("changes", "saying"),
    [
        ({"training": {"steps": 40}}, "metamath: 20 rows of use, but a run needs 160"),
        ({"validation_rows": 10}, "gsm8k train: 9 rows of use"),
        ({"adapter": {"m": 4, "r": 2, "s": 8}}, "leaves no room for a question beside 8 tokens"),
        ({"adapter": {"s": 96, "layout": "paper"}}, "layout must be adjacent"),
        ({"adapter": {"s": 96, "answers": "head"}}, "adapter.answers must be words"),
        ({"nam": "x"}, "nam: unknown key; did you mean name?"),
        ({"training": {"steps": 4, "lr_prompt": 1e38, "batch_size": 4}}, "not finite"),
    ],
)
def test_what_a_user_may_get_wrong(data, tiny_folders, tmp_path, changes, saying):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings(tiny_folders, **changes)))
    refused(dept("bench-peft", str(file), "--device", "cpu"), saying)


def test_an_interrupted_run_says_that_nothing_is_kept(data, tiny_folders, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wiki_loss", stop)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings(tiny_folders)))
    done = dept("bench-peft", str(file), "--device", "cpu")
    assert done.exit_code == 130
    assert "Nothing is kept" in done.stderr


def test_files_that_are_not_there(data, tiny_folders, tmp_path):
    refused(dept("bench-peft", "lama"), "no such file", "llama-3.2-3b")
    (data / "gsm8k" / "test.jsonl").write_text('{"question": "x"}\n')
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings(tiny_folders)))
    refused(dept("bench-peft", str(file)), "no column 'answer'")
