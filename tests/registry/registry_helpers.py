"""What the tests of the registry room share: specs, outcomes with real adapter files, a tiny backbone."""

import functools
import shutil
import tempfile
from pathlib import Path

import torch

from dept.adapters.adapter import Adapter
from dept.config import AdapterConfig, TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from infra.identity import process_id
from registry.ledger import Ledger
from registry.store import Store
from tasks.spec import Task

TASK = Task.build(
    "mood",
    {
        "description": "Mood of a sentence.",
        "license": "CC0-1.0",
        "template": "say: {text} mood:",
        "verbalizer": {"pos": "good", "neg": "bad"},
        "source": {"kind": "file", "path": "mood.csv"},
    },
    "test",
)


def make_spec(**changes) -> TrialSpec:
    fields = {
        "backbone": "tiny",
        "backbone_id": "b" * 64,
        "task": "movie-polarity",
        "task_version": 1,
        "data_hash": "d" * 64,
        "role": "target",
        "init": "scratch",
        "shots": 16,
        "seed": 0,
        "prompt_text": "x",
        "adapter": AdapterConfig(),
        "training": TrainConfig(),
        "test_rows": 200,
    }
    return TrialSpec(**{**fields, **changes})


def make_outcome(spec: TrialSpec, key: str = "", **changes) -> TrialOutcome:
    fields = {
        "best_step": 20,
        "steps_done": 60,
        "validation": {"accuracy": 75.0},
        "test": {"accuracy": 70.5},
        "loss_curve": [(1, 2.5), (2, 1.5)],
        "validation_curve": [(20, 75.0)],
        "seconds": 1.5,
        "tokens": 900,
        "tokens_per_second": 600.0,
        "peak_memory_mib": 512.0,
        "trainable": 9000,
        "cut_rows": 3,
        "extra": {"shots": ["a", "b"]},
    }
    key = key or f"adapters/{spec.fingerprint}/1"
    return TrialOutcome(spec=spec, adapter_key=key, adapter_sha256="a" * 64, **{**fields, **changes})


def save_adapter(folder: Path, spec: TrialSpec, d: int = 8, **metadata) -> str:
    shape = spec.adapter
    torch.manual_seed(spec.seed)
    adapter = Adapter(torch.randn(shape.m, d), torch.randn(shape.s, shape.r), torch.randn(shape.r, d))
    return adapter.save(
        folder,
        **{
            "backbone": spec.backbone,
            "task": spec.task,
            "template": TASK.template,
            "labels": TASK.labels,
            "words": TASK.words,
            "fingerprint": spec.fingerprint,
            **metadata,
        },
    )


def trained_outcome(folder: Path, spec: TrialSpec, d: int = 8, metadata: dict | None = None, **changes) -> TrialOutcome:
    """An outcome whose adapter lies in folder/<fingerprint> and in the store, as a trial leaves it."""
    digest = save_adapter(folder / spec.fingerprint, spec, d, **(metadata or {}))
    outcome = make_outcome(spec, **changes)
    Store.open().put_folder(folder / spec.fingerprint, outcome.adapter_key)
    outcome.adapter_sha256 = digest
    return outcome


def folder_of(outcome: TrialOutcome) -> Path:
    return Store.open().fetch(outcome.adapter_key)


def finish(ledger: Ledger, outcome: TrialOutcome, run_id: str = "run") -> None:
    """Bring a trial to its end, as a worker does; one that is there already stays as it is."""
    ledger.add([outcome.spec])
    if ledger.get(outcome.spec.fingerprint).status == "finished":
        return
    claim = next(c for c in ledger.claim(process_id(), 1000) if c.fingerprint == outcome.spec.fingerprint)
    assert ledger.trained(claim, outcome)
    assert ledger.finish(claim, run_id, outcome)


@functools.cache
def mlflow_template() -> Path:
    """A new MLflow database, made once in a test session: making one takes seconds."""
    from mlflow import MlflowClient

    file = Path(tempfile.mkdtemp()) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    return file


def new_store(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(mlflow_template(), home / "mlflow.db")


def save_tiny_backbone(folder: Path) -> Path:
    """A random GPT-2 of width 16 with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "say", "mood", ":", "x", "good", "bad", "nice", "film", "dull", "book", "a", "the"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=1,
            eos_token_id=1,
            initializer_range=0.4,
        )
    ).save_pretrained(folder)
    return folder
