"""Answers from trained adapters: in this process, or as models that MLflow serves."""

from registry.serving.champions import load_champion
from registry.serving.predictor import Answer, Predictor, load_adapter, needs_backbone

__all__ = ["Answer", "Predictor", "load_adapter", "load_champion", "needs_backbone"]
