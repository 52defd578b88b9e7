"""Small frozen configs; each field names its unit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import InputError
from infra.explain import Filled

MOST_M = 100_000
MOST_STEPS = 10_000_000
PIXELS = 16  # height and width of a patch of a picture
PROBE_TOKENS = 512  # of a text that a probe reads at most, where the plan's s is shorter
Layout = Literal["adjacent", "paper"]
Answers = Literal["words", "head", "both"]
Objective = Literal["words", "vocabulary"]
TestPart = Literal["test", "reserve"]  # of a task's rows, see `tasks.draws.rows_to_test`
Schedule = Literal["linear", "constant", "cosine"]
Dtype = Literal["float32", "bfloat16", "float64", "int8", "nf4", "int8-torchao"]  # of frozen weights
QUANTISED = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "int8-torchao": "torchao"}  # by whom; on CUDA, in bfloat16
RATES = ("lr_prompt", "lr_low_rank", "lr_head", "lr_pictures")  # of a training
Calibrated = Literal["none", "contextual", "batch"]
Calibration = Literal["choose", "none", "contextual", "batch"]  # what is asked for; see `dept.engine.readout`


class Frozen(BaseModel):
    """Immutable, hashable and closed: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureMap(Frozen):
    """An adapter's own way to see pictures: grid * grid vectors, each a trained linear map of what is seen there.

    Of pixels: a picture is resized to (grid * pixels) ** 2 pixels, whatever its own shape, and cut into patches, as a
    vision transformer does (Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1). Of a frozen picture encoder
    (`encoder`): its last hidden states, averaged to grid * grid places (the visual projection of CLIP-T5, Sung et al.
    2022, arXiv 2112.06825, section 3, as in Shi & Lipani, section 4.1). Each place has a trained vector added.

    Raises:
        pydantic.ValidationError: an unknown key, a number out of its bounds, or both an encoder and `pixels`.

    Example:
        >>> PictureMap(grid=4, pixels=8).positions
        16
    """

    grid: int = Field(
        4,
        ge=1,
        le=32,
        description="places in a row and in a column; each is one position. With an encoder at most as many as it has "
        "(CLIP ViT-B/32: 7); fewer are means of its states",
    )
    pixels: int = Field(PIXELS, ge=1, le=64, description="height and width of a patch, pixels; not with an encoder")
    rank: int = Field(0, ge=0, le=4096, description="rank of the map; 0: a full matrix")
    encoder: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="frozen picture encoder that the map reads (CLIP, SigLIP, ViT, DINOv2, ...): hub id or folder; "
        "none: pixels",
    )
    encoder_id: Annotated[str | None, Filled()] = Field(
        None, pattern="^[0-9a-f]{64}$", description="sha256 of the encoder's files; a run fills it in"
    )
    width: Annotated[int | None, Filled()] = Field(
        None, ge=1, le=65_536, description="width of the encoder's states; a run fills it in"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> PictureMap:
        if self.encoder and self.pixels != PIXELS:
            raise ValueError("pixels: an encoder has its own size of pictures; take pixels out, or encoder")
        if not self.encoder and (self.encoder_id or self.width):
            raise ValueError("encoder: encoder_id and width are of an encoder, and none is named")
        return self

    @property
    def positions(self) -> int:
        """Positions that a picture takes."""
        return self.grid**2

    @property
    def features(self) -> int:
        """Numbers that the map reads of a place: a patch's pixels and the picture's mean colour, or a hidden state.

        Raises:
            InputError: of an encoder that has not been looked up (`dept.backbones.encoder_files.looked_up`).
        """
        if self.encoder and self.width is None:
            raise InputError(
                f"adapter.pictures: the width of encoder {self.encoder} is not known yet. Remedy: "
                "dept.backbones.encoder_files.looked_up(pictures), which reads its files"
            )
        return self.width or 3 * self.pixels**2 + 3

    @property
    def seen(self) -> tuple[object, ...]:
        """What two maps must have alike to see alike; where the files of an encoder lie is not part of it."""
        return self.grid, self.pixels, self.rank, self.encoder_id or self.encoder

    def trainable(self, d: int) -> int:
        """Trainable numbers on a backbone of width `d`. Raises InputError as `features` does."""
        f = self.features
        return (self.rank * (f + d) if self.rank else f * d) + self.positions * d


class AdapterConfig(Frozen):
    """Shape of one DePT adapter: P [m, d], A [s, r], B [r, d] (paper section 2.3).

    Raises:
        pydantic.ValidationError: an unknown key, or a number out of its bounds.

    Example:
        >>> AdapterConfig(m=10, r=4, s=64).trainable(d=576)
        8320
    """

    m: int = Field(10, ge=1, le=MOST_M, description="soft prompt length, tokens")
    r: int = Field(4, ge=0, le=10_000, description="rank of the low-rank pair; 0: plain prompt tuning, no pair")
    s: int = Field(96, ge=2, le=1_000_000, description="longest text, tokens; longer texts are cut")
    alpha: float = Field(8.0, gt=0, le=1e6, description="scale = alpha / sqrt(r), no unit")
    layout: Layout = Field("adjacent", description="where text and rows of A sit for causal backbones")
    offset: int = Field(
        0, ge=0, le=4096, description="hidden width of ADePT's map of each token's embedding; 0: none (DePT)"
    )
    pictures: PictureMap | None = Field(
        None,
        description="a trained map of pictures to vectors before the text; none: the backbone's own, if any",
    )
    answers: Answers = Field(
        "words", description="what a label is told by: its words, a linear head over hidden states, or both together"
    )
    layers: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 1.0),
        min_length=1,
        max_length=8,
        description="depths whose hidden states, mean over the text, a head reads: share of the layers, 1 the last",
    )

    @property
    def scale(self) -> float:
        """Factor on A @ B."""
        return self.alpha / math.sqrt(self.r) if self.r else 0.0

    @property
    def blind(self) -> AdapterConfig:
        """The same adapter without a map of pictures."""
        return self if self.pictures is None else self.model_copy(update={"pictures": None})

    @property
    def shape(self) -> tuple[object, ...]:
        """What an adapter and the one that it starts from must have alike; a head or a map of pictures may be new."""
        return self.m, self.r, self.s, self.alpha, self.layout, self.offset

    def starts_from(self, source: AdapterConfig) -> bool:
        """Whether an adapter of this shape can start from one of that: a head, or a map of pictures, may be new."""
        maps = {one.seen for one in (self.pictures, source.pictures) if one is not None}
        return self.shape == source.shape and len(maps) < 2

    @property
    def reads(self) -> tuple[float, ...]:
        """Depths that a head reads; none without a head."""
        return () if self.answers == "words" else self.layers

    @property
    def headless(self) -> AdapterConfig:
        """The same adapter without a head, as sources, baselines and what is tried for a start have it."""
        return self.model_copy(update={"answers": "words", "layers": type(self).model_fields["layers"].default})

    def trainable(self, d: int, labels: int = 0, hidden: int | None = None) -> int:
        """Trainable numbers on a backbone of width `d`: m*d + (s+d)*r of P, A and B.

        And 2*d*h + h + d of an offset of width h, (layers*hidden + 1) * labels of a head, those of a map of pictures.

        Args:
            hidden: width of the backbone's hidden states; default d.
        """
        head = (len(self.reads) * (hidden or d) + 1) * labels if self.reads else 0
        token_wise = (2 * d + 1) * self.offset + d if self.offset else 0
        seen = self.pictures.trainable(d) if self.pictures else 0
        return self.m * d + (self.s + d) * self.r + token_wise + head + seen

    def equal_prompt_length(self, d: int) -> float:
        """Length (tokens) of the plain soft prompt that costs as many numbers; a map of pictures stays beside it."""
        return self.blind.trainable(d) / d

    def of_method(self, method: str, d: int, positions: int | None = None) -> AdapterConfig:
        """This shape, or that of a method of about as many trainable numbers; only dept and adept may have a head, and
        only these and prompt-tuning a map of pictures.

        Args:
            positions: tokens that the backbone can read at once; None: no end.
        """
        if method == "probe":  # only the length of the texts counts: nothing stands before them, no row of A is spent
            most = PROBE_TOKENS if positions is None else min(PROBE_TOKENS, positions)
            return type(self)(m=1, r=0, s=max(self.s, most))
        if method == "tfidf":  # reads texts, whole, and no tokens
            return type(self)(m=1, r=0, s=2)
        if method == "prompt-tuning":
            return self.as_prompt_tuning(d)
        if method == "adept":
            return self.as_adept(d)
        return self if method == "dept" else self.headless.blind

    def as_prompt_tuning(self, d: int) -> AdapterConfig:
        """Plain prompt tuning with as many trainable numbers, to the nearest token (paper section 3.1).

        Raises:
            InputError: a prompt longer than m may be.
        """
        m = round(self.equal_prompt_length(d))
        if m > MOST_M:
            raise InputError(
                f"adapter: m = {self.m:,} and r = {self.r:,} hold as many numbers as a prompt of {m:,} tokens, more "
                f"than {MOST_M:,}, so prompt-tuning cannot be compared. Remedy: a smaller m or r"
            )
        return self.headless.model_copy(update={"m": m, "r": 0})

    def as_adept(self, d: int) -> AdapterConfig:
        """ADePT with the same prompt: in place of the pair a map of about as many numbers, at least of width 1."""
        width = max(1, round(((self.s + d) * self.r - d) / (2 * d + 1)))
        return self.model_copy(update={"r": 0, "offset": width})


class TrainConfig(Frozen):
    """How one trial is trained: steps, rates, validation.

    Raises:
        pydantic.ValidationError: an unknown key, or a number out of its bounds.

    Example:
        >>> TrainConfig(steps=100, lr_prompt=1e-2, lr_low_rank=1e-3).batch_size
        8
    """

    steps: int = Field(
        60, ge=0, le=MOST_STEPS, description="optimizer steps at most; 0 leaves the adapter as initialised"
    )
    last: int | None = Field(
        None, ge=0, description="stop after so many of the steps, at the rates of a training of all; none: after all"
    )
    batch_size: int = Field(8, ge=1, le=100_000, description="rows per optimizer step")
    lr_prompt: float = Field(1e-2, ge=0, description="peak learning rate of P (paper: 0.3-0.5)")
    lr_low_rank: float = Field(1e-3, ge=0, description="peak learning rate of A and B (paper: 5e-4-1e-2)")
    lr_head: float = Field(1e-3, ge=0, description="peak learning rate of the head, where there is one")
    lr_pictures: float = Field(3e-3, ge=0, description="peak learning rate of the map of pictures, where there is one")
    warmup: float = Field(0.06, ge=0, le=1, description="share of the steps with a rising rate")
    schedule: Schedule = Field(
        "constant", description="how rates fall after the warm-up: to 0 on a line or as a cosine, or not"
    )
    objective: Objective = Field(
        "words",
        description="what a label word is trained against: the whole vocabulary (the paper's way, nats per token), or "
        "the task's words (nats per answer; always so where a head is trained). Free answers: the vocabulary",
    )
    average: float = Field(
        0.9,
        ge=0,
        le=1,
        description="what is validated and kept is a mean over the steps so far, each counting so much of the next; 0: "
        "the last step alone, 1: all alike",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of P's numbers that a step leaves out, others at random")
    noise: float = Field(
        0.0, ge=0, le=1000, description="alpha of the noise on text embeddings in training (NEFTune; 5 to 15)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target that all answers (objective vocabulary: tokens) have alike"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay per unit of learning rate")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm of an adapter; none: no clipping")
    eval_every: int = Field(20, ge=1, le=MOST_STEPS, description="steps between validations")
    patience: int | None = Field(
        100,
        ge=1,
        le=MOST_STEPS,
        description="steps without a lower validation loss after which the trial stops; none: never",
    )
    max_loss: float = Field(50.0, gt=0, description="a larger training loss (nats, see objective) fails the trial")

    @property
    def end(self) -> int:
        """The step after which a training is over."""
        return self.steps if self.last is None else min(self.last, self.steps)


class EngineOptions(Frozen):
    """How trials are run, whatever their numbers are: the same for one process and for ranks.

    Attributes:
        checkpoint_folder: one for all runs of a machine: each trial finds its own state there by its key.
    """

    adapters_at_once: int = Field(64, ge=1, description="trials in a stack at the same time")
    token_budget: int | None = Field(
        None, ge=1, description="padded tokens per micro-batch; none: by rule, see dept.engine.memory"
    )
    checkpoint_folder: Path | None = Field(None, description="where stacks save themselves; none: nowhere")
    checkpoint_seconds: float = Field(30.0, ge=0, description="seconds between saves")
