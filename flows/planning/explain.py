"""What is wrong with a plan or another order, in one line."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from dept.config import AdapterConfig, TrainConfig
from infra import explain

# A group gives some keys of these models only.
PARTS: dict[tuple[str, str], type[BaseModel]] = {
    ("Group", "adapter"): AdapterConfig,
    ("Group", "scratch_training"): TrainConfig,
    ("Group", "transfer_training"): TrainConfig,
}


def explained(error: ValidationError, model: type[BaseModel], body: Any = None) -> str:
    """Each fault with its full path, at most three; `body`: what the user wrote."""
    return explain.explained(error, model, body, PARTS)
