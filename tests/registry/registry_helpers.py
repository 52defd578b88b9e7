"""What the tests of the registry room share: specs, outcomes with real adapter files, a tiny backbone."""

import functools
import shutil
import tempfile
from pathlib import Path

import torch

from dept.adapters.adapter import Adapter
from dept.trial import TrialOutcome, TrialSpec
from registry.store import Store
from tasks.spec import Task
from tests.registry.ledger_helpers import finish, make_outcome, make_spec

__all__ = ["finish", "make_outcome", "make_spec"]

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
    outcome.files_sha256 = Store.open().put_folder(folder / spec.fingerprint, outcome.adapter_key)
    outcome.adapter_sha256 = digest
    return outcome


def folder_of(outcome: TrialOutcome) -> Path:
    return Store.open().fetch(outcome.adapter_key)


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


def save_tiny_backbone(folder: Path, seed: int = 0) -> Path:
    """A random GPT-2 of width 16 with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "say", "mood", ":", "x", "good", "bad", "nice", "film", "dull", "book", "a", "the"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
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
