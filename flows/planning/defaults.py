"""What trials are trained with where a plan says nothing, and the rates that it may name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dept.config import TrainConfig

RateKey = Literal["dept", "transfer", "adept", "prompt-tuning", "lora", "lora-r8", "full"]
# Peak rates of baselines where a plan names none: DePT's would be far too high for them. LoRA's is ten times that of
# full fine-tuning (https://thinkingmachines.ai/blog/lora/), whatever its rank.
BASELINE_RATES: dict[RateKey, float] = {"lora": 1e-3, "lora-r8": 1e-3, "full": 1e-4}
RateList = Annotated[list[Annotated[float, Field(gt=0)]], Field(max_length=100)]
# Of tasks that it has not seen the loss still falls at 120 steps, at these rates (flows/studies/README.md, recipe).
SOURCE_TRAINING = TrainConfig(steps=120, lr_prompt=1e-2, lr_low_rank=1e-3)
# Until the loss of validation is flat: most trials end long before their last step (flows/studies/README.md, recipe).
SCRATCH_TRAINING = TrainConfig(steps=48, lr_prompt=3e-2, lr_low_rank=1e-4, eval_every=4, patience=16)
TRANSFER_TRAINING = TrainConfig(steps=48, lr_prompt=1e-3, lr_low_rank=1e-4, eval_every=4, patience=16)
PROMPT_TEXT = "Read the text and name the label that fits it best."
