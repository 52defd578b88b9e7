"""The settings of a run, and what the protocol fixes. No torch here.

Source: default_training_params.json and README.md of
https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from dept.config import AdapterConfig, Dtype, Frozen, TrainConfig
from flows.planning.plan_file import validated
from infra.errors import InputError
from infra.names import expanded
from tasks.yaml_file import read_yaml

SHIPPED = Path(__file__).parent
TEMPLATE = "Question: {query} Think step by step.\nAnswer:"
USUAL = {
    **{"steps": 5000, "batch_size": 4, "eval_every": 250, "warmup": 0.1, "schedule": "cosine", "clip": 1.0},
    **{"objective": "vocabulary", "weight_decay": 0.0, "patience": None},
    **{"average": 0.0, "dropout": 0.0, "noise": 0.0, "label_smoothing": 0.0},
}
BUCKET = 20  # batches that are sorted by length together
EMPTY_CACHE = 10  # steps after which the device's cache is emptied


class Settings(Frozen):
    """One run of the comparison; the defaults are those of the protocol."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=80, description="name of the experiment")
    backbone: str = Field("meta-llama/Llama-3.2-3B", min_length=1, max_length=500, description="hub id or local folder")
    dtype: Dtype = Field("bfloat16", description="type of the frozen weights; adapters are float32")
    adapter: AdapterConfig = Field(description="shape of the adapter; s holds a question and its answer")
    training: TrainConfig = Field(description="steps, rates, schedule; none named: those of the protocol")
    seed: int = Field(0, ge=0, description="of the adapter's start")
    prompt_text: str = Field(
        "Question: Think step by step.", min_length=1, max_length=2000, description="text that starts the soft prompt"
    )
    max_new_tokens: int = Field(300, ge=1, description="longest answer when it is written, tokens")
    longest_row: int = Field(
        1300, ge=1, description="characters of question and answer; longer training rows are left out"
    )
    validation_rows: int = Field(
        50, ge=1, description="rows of GSM8K's training split that are answered while training"
    )
    batch_size_eval: int = Field(50, ge=1, description="questions that are answered at once")
    wiki_rows: int = Field(100, ge=1, description="texts of Wikipedia whose loss tells what was forgotten")
    wiki_tokens: int = Field(768, ge=2, description="tokens of each that count")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, body: Any) -> Any:
        """What the protocol fixes, where a file does not say it."""
        if not isinstance(body, dict) or not isinstance(body.get("training", {}), dict):
            return body
        return {**body, "training": USUAL | body.get("training", {})}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.adapter.answers != "words" or self.training.objective != "vocabulary":
            raise ValueError("answers are written here: adapter.answers must be words, training.objective vocabulary")
        if self.adapter.offset:
            raise ValueError("adapter: offset must be 0, since this compares DePT")
        if self.adapter.layout != "adjacent":
            raise ValueError("adapter: layout must be adjacent, since an answer has no length of its own here")
        if self.adapter.s <= self.max_new_tokens:
            raise ValueError(
                f"adapter: s={self.adapter.s} leaves no room for a question beside {self.max_new_tokens} tokens"
            )
        return self

    @property
    def experiment(self) -> str:
        """As the benchmark names experiments: method/name."""
        return f"dept/{self.name}"

    def train_config(self) -> dict[str, Any]:
        """The settings in the benchmark's own words."""
        rates = {"lr": self.training.lr_prompt, "lr_low_rank": self.training.lr_low_rank}
        return {
            "model_id": self.backbone,
            "dtype": self.dtype,
            "max_seq_length": self.adapter.s,
            "batch_size": self.training.batch_size,
            "batch_size_eval": self.batch_size_eval,
            "max_steps": self.training.steps,
            "eval_steps": self.training.eval_every,
            "compile": False,
            "use_gc": False,
            "query_template": TEMPLATE,
            "seed": self.seed,
            "grad_norm_clip": self.training.clip or 0.0,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": rates | {"weight_decay": self.training.weight_decay},
            "lr_scheduler": self.training.schedule,
            "use_amp": False,
            "autocast_adapter_dtype": True,
            "generation_kwargs": {"max_length": self.adapter.s, "max_new_tokens": self.max_new_tokens},
            "attn_implementation": None,
            "init_kv_cache_prefix": None,
        }


def load_settings(name_or_path: str) -> Settings:
    """Shipped settings (`llama-3.2-3b`), or those of a YAML file.

    Raises:
        InputError: no such file, not YAML, an unknown key, a value out of bounds.
    """
    path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        path = expanded(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise InputError(
            f"settings {name_or_path}: no such file. Remedy: the path of a .yaml file, or one of: {shipped}"
        )
    body = read_yaml(path, f"settings {path}")
    if not isinstance(body, dict):
        raise InputError(f"settings {path}: expected keys and values such as 'name: mine'")
    return validated(Settings, f"settings {path}", **{"name": path.stem, **body})
